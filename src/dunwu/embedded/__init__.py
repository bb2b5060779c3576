"""The embedded model: a tiny model that can do arithmetic but gives up early, and the puzzles it was made for.

It knows Countdown and nothing else. `python -m dunwu.embedded.build` makes it again.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path

import yaml

from dunwu.errors import ModelError
from dunwu.tasks import Countdown

__all__ = ["EMBEDDED_MODEL", "embedded_model_path", "quickstart_task"]

EMBEDDED_MODEL = Path(__file__).parent / "model"
"""The folder of the embedded model: weights, configuration, tokenizer with chat template."""


def embedded_model_path() -> str:
    """The embedded model's folder, as `from_pretrained` takes it.

    Raises:
        ModelError: where it is not installed.
    """
    if not (EMBEDDED_MODEL / "model.safetensors").is_file():
        raise ModelError(
            f"the embedded model is not in {EMBEDDED_MODEL}; reinstall dunwu, or run python -m dunwu.embedded.build"
        )
    return str(EMBEDDED_MODEL)


@lru_cache(maxsize=1)
def quickstart_task() -> Countdown:
    """Countdown as the model knows it: the task of the recipe `quickstart`, which has its options."""
    recipe = yaml.safe_load((resources.files("dunwu") / "recipes" / "quickstart.yaml").read_text(encoding="utf-8"))
    return Countdown(**{name: value for name, value in recipe["task"].items() if name != "name"})
