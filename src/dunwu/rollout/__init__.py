"""From dataset rows to micro-batches."""

__all__: list[str] = []
