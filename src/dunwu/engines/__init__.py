"""Engines: prompts in, completions out, with the log-probabilities they were sampled with.

`FastEngine` runs the families it knows, `TransformersEngine` any model with a cache of keys and values; `make_engine`
chooses, or takes yours. `ready` is the one door to an engine's weights and memory.
"""

from dunwu.engines.fast.engine import FastEngine
from dunwu.engines.registry import ENGINES, make_engine
from dunwu.engines.sampling import sample_seeds, sequence_seed
from dunwu.engines.sync import ready
from dunwu.engines.transformers_engine import TransformersEngine

__all__ = ["ENGINES", "FastEngine", "TransformersEngine", "make_engine", "ready", "sample_seeds", "sequence_seed"]
