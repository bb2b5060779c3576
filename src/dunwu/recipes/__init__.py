"""From a YAML recipe to objects, a run and its evaluation; the one place that wires objects together."""

__all__: list[str] = []
