"""`import dunwu.compat`: in this notebook or script, `trl` is Dunwu from here on.

What it is: the one line that a notebook needs, before the others: scripts written for TRL 0.14 to 1.16 then run on
Dunwu.
What it is not: needed by a script run with `dunwu run`, or by anything that imports `dunwu` itself. The names are in
`dunwu.trl`, which may be imported without any of this.
"""

from dunwu.compat.install import install

__all__ = ["install"]

install()
