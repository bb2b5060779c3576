"""Records, protocols, the algorithm, metrics: torch and nothing else."""

__all__: list[str] = []
