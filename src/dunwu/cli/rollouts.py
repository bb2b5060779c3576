"""`dunwu rollouts RUN`: what a run's model said: filtered, sorted, or one prompt's completions together."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import get_args

from dunwu._utils.language import translated
from dunwu._utils.terminal_text import wrap
from dunwu.errors import ConfigError, DunwuError
from dunwu.reports.logged_completion import LoggedCompletion
from dunwu.reports.rollout_text import completion_table, group_text
from dunwu.reports.rollouts import (
    RolloutQuery,
    RolloutSource,
    SortKey,
    StepChoice,
    find_completions,
    find_group,
    parse_bound,
)
from dunwu.reports.run_folder import RunFolder, open_run

__all__ = ["add_arguments", "run"]

_LIMIT = 20
_BATCH = 500
_STEPS: dict[str, StepChoice] = {"first": "first", "last": "last", "all": "all"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument("--step", metavar="N", help="a step, `first`, `last` or `all` (default: last)")
    parser.add_argument("--row", type=int, metavar="ROW", help="only completions to this prompt")
    parser.add_argument("--prompt", metavar="TEXT", default="", help="only prompts that contain this")
    parser.add_argument("--text", metavar="TEXT", default="", help="only completions that contain this")
    parser.add_argument("--reward", metavar="CONDITION", help="such as '<0.5', '>=1' or '0'")
    parser.add_argument(
        *("--score",),
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "CONDITION"),
        help="the same for one reward function: --score equation_solves '>0'; may be repeated",
    )
    parser.add_argument("--cut", action="store_true", help="only completions that the token limit cut")
    grade = parser.add_mutually_exclusive_group()
    grade.add_argument("--right", action="store_true", help="with --evaluation: only right answers")
    grade.add_argument("--wrong", action="store_true", help="with --evaluation: only wrong answers")
    parser.add_argument("--sort", choices=get_args(SortKey), help="highest first")
    parser.add_argument("--reverse", action="store_true", help="with --sort: lowest first")
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"at most N; 0: all (default: {_LIMIT}, with --json 0)"
    )
    parser.add_argument(
        "--group", type=int, metavar="ROW", help="one prompt's completions whole, with what each reward added"
    )
    parser.add_argument(
        *("--evaluation",),
        nargs="?",
        const="after",
        choices=("before", "after", "during"),
        help="read held-out completions in place of those that were trained on (default: after)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, as in the file")


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Print the completions that were asked for."""
    folder = open_run(args.run)
    query = _query(args)
    _print_group(folder, args, query) if args.group is not None else _print_matches(folder, args, query)
    return 0


def _query(args: argparse.Namespace) -> RolloutQuery:
    if args.limit is not None and args.limit < 0:
        raise ConfigError(f"--limit must be 0 (all) or more, got {args.limit}")
    if (args.right or args.wrong) and args.evaluation not in ("before", "after"):
        raise ConfigError("--right and --wrong need the task's grades, which --evaluation before and after have")
    if args.reverse and args.sort is None:
        raise ConfigError("--reverse needs an order to reverse; add --sort reward, tokens or advantage")
    limit = args.limit if args.limit is not None else 0 if args.json else _LIMIT
    return RolloutQuery(
        source=_source(args.evaluation),
        step=_step(args.step) or "last",
        row=args.row,
        prompt=args.prompt,
        text=args.text,
        reward=parse_bound(args.reward) if args.reward is not None else None,
        scores={name: parse_bound(condition) for name, condition in args.score},
        cut=True if args.cut else None,
        right=True if args.right else False if args.wrong else None,
        sort=args.sort,
        reverse=args.reverse,
        limit=limit,
    )


def _source(evaluation: RolloutSource | None) -> RolloutSource:
    return "training" if evaluation is None else evaluation


def _step(given: str | None) -> StepChoice | None:
    if given is None or given in _STEPS:
        return None if given is None else _STEPS[given]
    if given.isascii() and given.isdigit():
        return int(given)
    raise ConfigError(f"--step {given} is no step; give a number, first, last or all")


def _print_matches(folder: RunFolder, args: argparse.Namespace, query: RolloutQuery) -> None:
    matches = find_completions(folder, query)
    if args.json:
        _print_json(matches)
        return
    remaining = iter(matches)
    while batch := list(islice(remaining, _BATCH)):
        _say(completion_table(batch, width=_width()))
    if not matches.looked_at:
        raise ConfigError(f"{folder.path} has no whole line of completions to read there")
    shown = min(matches.found, query.limit) if query.limit else matches.found
    lines = [
        translated("{n} shown of {found} that match, of {all}.", n=shown, found=matches.found, all=matches.looked_at)
    ]
    if shown < matches.found:
        lines.append(translated("--limit {n} shows all of them.", n=matches.found))
    if query.source in ("training", "during") and query.step != "all":
        lines.append(translated("--step all looks at every step."))
    lines.append(translated("--group ROW shows one prompt's completions whole."))
    _say(wrap(" ".join(lines), _width()))


def _print_group(folder: RunFolder, args: argparse.Namespace, query: RolloutQuery) -> None:
    group = find_group(folder, args.group, query.source, _step(args.step))
    if args.json:
        _print_json(group)
        return
    columns, gold = _row_and_gold(folder, group[0], query.source)
    _say(group_text(group, gold=gold, columns=columns, weights=_weights(folder, group[0]), width=_width()))


def _print_json(completions: Iterable[LoggedCompletion]) -> None:
    for one in completions:
        text = json.dumps(one.entry, ensure_ascii=False)
        # Half of a surrogate pair stays an escape, which is what JSON calls it, too.
        print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _row_and_gold(
    folder: RunFolder, one: LoggedCompletion, source: RolloutSource
) -> tuple[Mapping[str, object], str | None]:
    """The row that a prompt was made of, and a right answer; what the task cannot tell is left out."""
    from dunwu.recipes.recipe import load_recipe
    from dunwu.recipes.wiring import make_task

    row: Mapping[str, object] = one.columns
    try:
        task = make_task(load_recipe(str(folder.path / "recipe.yaml")), for_training=False)
        if not row and source == "training" and one.row is not None:
            found = task.rows("train")[one.row]
            row = found if _is_in(task.prompt(found), one.prompt) else {}
        return row, task.gold_completion(row) if row else None
    except (DunwuError, OSError, ImportError, LookupError) as error:
        _say(f"(no gold answer: {' '.join(str(error).split())})")
        return row, None


def _is_in(prompt: object, text: str) -> bool:
    """Whether a task's prompt is what the model saw: the data may have changed since."""
    return str(prompt[-1]["content"] if isinstance(prompt, list) else prompt).strip() in text


def _weights(folder: RunFolder, one: LoggedCompletion) -> dict[str, float]:
    section = folder.recipe.get("train")
    given = section.get("reward_weights") if isinstance(section, dict) else None
    if not isinstance(given, list) or len(given) != len(one.scores):
        return {}
    return dict(zip(one.scores, map(float, given), strict=True))


def _width() -> int:
    return max(60, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 80


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
