"""The options of a run: `GRPOConfig`, its presets and its checks."""

from dunwu.config.options import GRPOConfig
from dunwu.config.presets import PRESETS

__all__ = ["PRESETS", "GRPOConfig"]
