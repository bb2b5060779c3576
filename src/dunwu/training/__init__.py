"""The trainer: hooks of transformers' Trainer, its wiring, its checkpoints."""

__all__: list[str] = []
