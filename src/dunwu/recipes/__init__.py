"""A YAML recipe becomes objects, a run, and an evaluation."""

__all__: list[str] = []
