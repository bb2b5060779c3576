"""Small helpers that every floor may use; none knows what the program is for."""

__all__: list[str] = []
