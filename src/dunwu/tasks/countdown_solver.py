"""Which numbers can be made from given ones: the search behind Countdown's puzzles, gold answers and traces.

`chains` is every way to work down to one number in whole positive steps; `solve` is any expression that reaches a
target, with fractions and negative numbers on the way. What a model wrote is checked in `dunwu.rewards`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

__all__ = ["Chain", "chains", "solve"]

OPERATIONS = "+-*/"
_LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True, slots=True)
class Chain:
    """One way to use every number once.

    Example: `Chain(steps=("17-14=3", "17*3=51"), expression="17*(17-14)", value=51)`
    """

    steps: tuple[str, ...]
    """The operations in order, the larger operand first."""
    expression: str
    """The same as one expression, with no more parentheses than needed."""
    value: int
    """What it comes to."""


@dataclass(frozen=True, slots=True)
class _Term:
    """A number on the table, how it was made, and how tightly its last operation binds (3: a bare number)."""

    value: Fraction
    text: str
    level: int = 3


def _join(left: _Term, operation: str, right: _Term) -> _Term | None:
    """`left operation right`, or None for a division by zero."""
    if operation == "/" and right.value == 0:
        return None
    level = _LEVEL[operation]
    value = {
        "+": lambda: left.value + right.value,
        "-": lambda: left.value - right.value,
        "*": lambda: left.value * right.value,
        "/": lambda: left.value / right.value,
    }[operation]()
    before = f"({left.text})" if left.level < level else left.text
    tight = right.level < level or (operation in "-/" and right.level == level)
    return _Term(value, f"{before}{operation}({right.text})" if tight else f"{before}{operation}{right.text}", level)


def _moves(table: tuple[_Term, ...], operations: str) -> Iterator[tuple[_Term, str, _Term, _Term, tuple[_Term, ...]]]:
    """Every (left, operation, right, result, rest) from this table, the larger number on the left."""
    for i, j in combinations(range(len(table)), 2):
        pair = sorted((table[i], table[j]), key=lambda term: term.value, reverse=True)
        rest = tuple(term for k, term in enumerate(table) if k not in (i, j))
        for operation in operations:
            result = _join(pair[0], operation, pair[1])
            if result is not None:
                yield pair[0], operation, pair[1], result, rest


def _walk(table: tuple[_Term, ...], steps: tuple[str, ...], operations: str, limit: int) -> Iterator[Chain]:
    if len(table) == 1:
        yield Chain(steps, table[0].text, int(table[0].value))
        return
    for left, operation, right, result, rest in _moves(table, operations):
        if result.value.denominator == 1 and 1 <= result.value <= limit:
            step = f"{left.value}{operation}{right.value}={result.value}"
            yield from _walk((result, *rest), (*steps, step), operations, limit)


@lru_cache(maxsize=4096)
def chains(nums: tuple[int, ...], limit: int = 99, operations: str = OPERATIONS) -> tuple[Chain, ...]:
    """Every distinct way to combine all of `nums`, each result a whole number in 1..`limit`, in a fixed order.

    `nums` is taken as a multiset: its order changes nothing. `operations` is a choice of the letters `+-*/`.
    """
    table = tuple(_Term(Fraction(n), str(n)) for n in sorted(nums, reverse=True))
    return tuple({chain.steps: chain for chain in _walk(table, (), operations, limit)}.values())


def solve(nums: Sequence[int], target: int, operations: str = OPERATIONS) -> str | None:
    """An expression with every one of `nums` once that equals `target` exactly; None where there is none.

    Fractions and negative numbers may stand in between, as in `8/(3-8/3)`. Four numbers take about 20 ms at worst.
    """
    return _reach(tuple(_Term(Fraction(n), str(n)) for n in nums), Fraction(target), operations)


def _reach(table: tuple[_Term, ...], target: Fraction, operations: str) -> str | None:
    if len(table) == 1:
        return table[0].text if table[0].value == target else None
    for left, operation, right, result, rest in _moves(table, operations):
        results = [result]
        if operation in "-/":  # the smaller number on the left: negative, or a proper fraction
            other = _join(right, operation, left)
            results += [other] if other is not None else []
        for made in results:
            found = _reach((made, *rest), target, operations)
            if found is not None:
                return found
    return None
