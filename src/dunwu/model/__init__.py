"""Everything that touches a training forward."""

__all__: list[str] = []
