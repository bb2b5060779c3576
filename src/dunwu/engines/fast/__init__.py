"""The fast engine: rollouts in process, for four families of models."""

from dunwu.engines.fast.engine import FastEngine

__all__ = ["FastEngine"]
