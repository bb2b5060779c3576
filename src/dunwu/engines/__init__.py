"""Engines: prompts in, completions with the log-probabilities they were drawn with out.

`GenerateEngine` runs any causal model of transformers, in process, on the trainer's own weights.
A new engine is any object that fits `dunwu.records.Engine`.
"""

from dunwu.engines.generate import GenerateEngine
from dunwu.engines.sampling import sequence_seed

__all__ = ["GenerateEngine", "sequence_seed"]
