"""Countdown: combine the given numbers, each once, to reach a target.

Puzzles from a generator of chosen difficulty, or rows in the format of Countdown-Tasks-3to4 (columns `nums`,
`target`) from a file or the hub; three prompt styles; gold answers by search. The checker is in
`dunwu.rewards.countdown`.

Splits are cut by the multiset of numbers, never by row, so that no puzzle is met with its numbers in another order.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from dunwu._utils.logging import get_logger
from dunwu.core.protocols import RewardFunction
from dunwu.core.records import Grade, Message, Row
from dunwu.errors import ConfigError, DataError
from dunwu.rewards.countdown import equation_solves, solves
from dunwu.rewards.formats import answer_in_tags, has_format, think_answer_format, think_answer_format_prefilled
from dunwu.tasks.countdown_solver import OPERATIONS, chains, solve
from dunwu.tasks.countdown_traces import summarise
from dunwu.tasks.read_rows import need_columns, read_rows

__all__ = ["PREFILL", "PROMPT", "Countdown", "Split", "draw_puzzle", "split_of"]

Split: TypeAlias = Literal["train", "validation", "test"]

PROMPT = {
    "tiny": "{spaced} = {target}",
    "chinese": (
        "使用给定的数字 {numbers}，创建一个等于 {target} 的等式。你可以使用基本算术运算（+、-、*、/）一次或多次，"
        "但每个数字只能使用一次。请在 <think> </think> 标签中写出思考过程，"
        "并在 <answer> </answer> 标签中给出最终等式，例如 <answer> (1 + 2) / 3 </answer>。"
    ),
    "english": (
        "Use the numbers {numbers} to make an equation that equals {target}. You may use basic arithmetic "
        "(+, -, *, /) once or several times, but each number exactly once. Think in <think> </think> tags, and give "
        "the final equation in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    ),
}
"""The user's message, by style: `{numbers}` is a list, `{spaced}` the same with spaces only."""

PREFILL = {"chinese": "让我们逐步解决这个问题。\n<think>", "english": "Let us solve this step by step.\n<think>"}
"""How the assistant's answer already begins, by style; the model continues it."""

_PUZZLE = re.compile(r"\[?(\d{1,9}(?:[, ]+\d{1,9})+)\]?\s*(?:=|→|->)\s*(\d{1,9})")
_EXPRESSION = re.compile(r"[-−+*×/÷()\d][-−+*×/÷()\d ]*")


@dataclass(frozen=True, kw_only=True)
class Countdown:
    """The task. Every option has a default; numbers and targets are plain integers.

    Example: `Countdown(high=20, style="tiny").prompt({"nums": [3, 14, 17], "target": 51})` is
    `[{"role": "user", "content": "3 14 17 = 51"}]`.
    """

    source: str | None = None
    """A file, folder or hub name with columns `nums` and `target`; None: the generator."""
    style: Literal["tiny", "chinese", "english"] = "english"
    """How the puzzle is put; all but `tiny` begin the answer with `<think>`."""
    numbers: int = 3
    """How many numbers a puzzle has: 2 to 6 (six take seconds each). This and the next six are for the generator."""
    low: int = 1
    """Smallest number."""
    high: int = 20
    """Largest number."""
    target_low: int = 10
    """Smallest target."""
    target_high: int = 99
    """Largest target."""
    limit: int = 99
    """Largest result on the way; all results are whole and positive."""
    operations: str = OPERATIONS
    """Which of `+-*/` make targets."""
    train_rows: int | None = None
    """Rows of the training split; None: 4,096 from the generator, or all there are."""
    validation_rows: int | None = 500
    """Rows of the validation split; None: as `train_rows`."""
    test_rows: int | None = 500
    """Rows of the test split; None: as `train_rows`."""
    seed: int = 0
    """Seed of the draw (generator) or of the shuffle (data). Splits do not depend on it."""
    rewards: Sequence[RewardFunction] = ()
    """Own reward functions; empty: format and equation, 1.0 each."""
    max_reward: float | None = 2.0
    """Sum that a gold answer must reach; give it along with `rewards`."""

    def __post_init__(self) -> None:
        if self.style not in PROMPT:
            raise ConfigError(f"style={self.style!r} is unknown; choose one of {', '.join(PROMPT)}")
        if not 2 <= self.numbers <= 6:
            raise ConfigError(f"numbers={self.numbers} is not possible; choose 2 to 6")
        if not 1 <= self.low <= self.high or not 1 <= self.target_low <= self.target_high <= self.limit:
            raise ConfigError(
                f"ranges {self.low}..{self.high} (numbers) and {self.target_low}..{self.target_high} (targets, up to "
                f"limit={self.limit}) must be positive and not empty"
            )
        if not self.operations or set(self.operations) - set(OPERATIONS):
            raise ConfigError(f"operations={self.operations!r} must be some of the letters {OPERATIONS!r}")
        if not self.rewards:
            format_reward = think_answer_format_prefilled if self.prefill else think_answer_format
            object.__setattr__(self, "rewards", (format_reward, equation_solves))
        object.__setattr__(self, "rewards", tuple(self.rewards))  # hashable: drawn puzzles are cached by task

    @property
    def name(self) -> str:
        """`countdown`."""
        return "countdown"

    @property
    def prefill(self) -> str | None:
        """The beginning of the assistant's answer, None for the style `tiny`."""
        return PREFILL.get(self.style)

    def rows(self, split: Split) -> Sequence[Row]:
        """Puzzles of one split in a seeded order. Raises `ConfigError` where the generator has fewer."""
        wanted = {"train": self.train_rows, "validation": self.validation_rows, "test": self.test_rows}[split]
        if self.source is not None:
            return _read(self.source, self.seed)[split][:wanted]
        return _generate(self, split, 4096 if wanted is None else wanted)

    def prompt(self, row: Row) -> list[Message]:
        """The user's message, and in all styles but `tiny` the beginning of the assistant's."""
        nums = [int(n) for n in row["nums"]]
        text = PROMPT[self.style].format(numbers=nums, spaced=" ".join(map(str, nums)), target=row["target"])
        user = {"role": "user", "content": text}
        return [user, {"role": "assistant", "content": self.prefill}] if self.prefill else [user]

    def row_of(self, text: str) -> Row | None:
        """The puzzle that a text such as `3 14 17 = 51` puts; None for any other text."""
        puzzle = _PUZZLE.fullmatch(text.strip())
        return {"nums": [int(n) for n in re.findall(r"\d+", puzzle[1])], "target": int(puzzle[2])} if puzzle else None

    def gold_completion(self, row: Row) -> str | None:
        """A completion with a right answer, found by search; None where the puzzle has no solution."""
        expression = solve([int(n) for n in row["nums"]], int(row["target"]))
        if expression is None:
            return None
        opening = "" if self.prefill else "<think>"
        return f"{opening}{expression}={row['target']}</think>\n<answer>{expression}</answer>"

    def grade(self, row: Row, text: str) -> Grade:
        """Strict: in the answer tags, in the right format. Lenient: an expression anywhere in the text solves it."""
        nums, target = [int(n) for n in row["nums"]], int(row["target"])
        answer = answer_in_tags(text)
        right = answer is not None and solves(answer, nums, target)
        formatted = has_format(text, ("think", "answer"), prefilled=self.prefill is not None)
        anywhere = right or any(solves(found, nums, target) for found in set(_EXPRESSION.findall(text)))
        return Grade(strict=right and formatted, lenient=anywhere, formatted=formatted)

    def summary_metrics(self, completions: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
        """How sound the thoughts are: trials a completion, shares of right arithmetic, right verdicts and repeats."""
        found = asdict(summarise(completions, [int(row["target"]) for row in rows]))
        return {name: float(value) for name, value in found.items() if value is not None and name != "completions"}


def split_of(nums: Sequence[int]) -> Split:
    """The split that a multiset of numbers belongs to: 80 % train, 10 % validation, 10 % test, by a hash."""
    digest = hashlib.sha256(",".join(str(n) for n in sorted(nums)).encode()).digest()
    tenth = int.from_bytes(digest[:8], "big") % 10
    return "validation" if tenth == 8 else "test" if tenth == 9 else "train"


def draw_puzzle(task: Countdown, split: Split, rng: random.Random) -> tuple[tuple[int, ...], int] | None:
    """One draw of numbers and a target that is reachable from them; None where the draw belongs to another split."""
    nums = tuple(rng.randint(task.low, task.high) for _ in range(task.numbers))
    if split_of(nums) != split:
        return None
    values = {way.value for way in chains(tuple(sorted(nums)), task.limit, task.operations)}
    targets = sorted(value for value in values if task.target_low <= value <= task.target_high)
    return (nums, rng.choice(targets)) if targets else None


_REPORT_SECONDS = 10.0


@lru_cache(maxsize=16)
def _generate(task: Countdown, split: Split, count: int) -> tuple[Row, ...]:
    rng, report = random.Random(f"{task.seed} {split}"), _progress_report(split, count)
    rows, seen, misses = list[Row](), set[tuple[tuple[int, ...], int]](), 0
    while len(rows) < count:
        report(len(rows))
        puzzle = draw_puzzle(task, split, rng)
        key = (tuple(sorted(puzzle[0])), puzzle[1]) if puzzle else None
        if puzzle is None or key is None or key in seen:
            misses += 1
            if misses > 1000 + 50 * count:
                raise ConfigError(
                    f"only {len(rows)} different puzzles found for the {split} split, {count} were asked for; "
                    "ask for fewer rows or widen low..high or target_low..target_high"
                )
            continue
        seen.add(key)
        rows.append({"nums": list(puzzle[0]), "target": puzzle[1]})
    return tuple(rows)


def _progress_report(split: Split, count: int) -> Callable[[int], None]:
    """A function that logs how many puzzles are there, every ten seconds of a search that takes so long."""
    started = last = time.monotonic()

    def report(found: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _REPORT_SECONDS:
            return
        last = now
        left = f"about {(now - started) / found * (count - found) / 60:.0f} minutes left" if found else "none yet"
        get_logger().info("Countdown: drawing puzzles for %s, %d of %d (%s)", split, found, count, left)

    return report


@lru_cache(maxsize=4)
def _read(source: str, seed: int) -> dict[Split, tuple[Row, ...]]:
    table = read_rows(source)
    need_columns(table, ("nums", "target"), source)
    random.Random(seed).shuffle(table)
    splits: dict[Split, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in table:
        try:
            nums, target = [int(n) for n in row["nums"]], int(row["target"])
        except (TypeError, ValueError) as error:
            given = f"nums={row['nums']!r:.60} and target={row['target']!r:.30}"
            wanted = "nums must be a list of whole numbers, and target a whole number"
            raise DataError(f"a row of {source!r} has {given}; {wanted}") from error
        splits[split_of(nums)].append({"nums": nums, "target": target})
    return {split: tuple(rows) for split, rows in splits.items()}
