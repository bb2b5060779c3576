"""`import dunwu.compat`: from here on, `trl` is Dunwu in this notebook or script.

A notebook needs this one line before its others; a script run by `dunwu run` needs none. The names are in
`dunwu.trl`, which may be imported without any effect.
"""

from dunwu.compat.install import install
from dunwu.trl.options import set_options

__all__ = ["install", "set_options"]

install()
