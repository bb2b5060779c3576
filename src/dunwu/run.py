"""`python -m dunwu.run SCRIPT`: `dunwu run` for launchers.

accelerate launch --num_processes 2 -m dunwu.run train.py --config train.yaml
"""

import sys

from dunwu.cli.run import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
