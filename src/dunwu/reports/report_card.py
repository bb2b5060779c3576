"""A run's report card, `report.md` in its folder: what it was, what it learned, what it says, what to try next."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dunwu._utils.language import translated
from dunwu.errors import ConfigError
from dunwu.reports.advice import suggestions
from dunwu.reports.answers import ShownAnswer, three_answers
from dunwu.reports.comparison import run_seconds, run_steps
from dunwu.reports.figures import duration, evaluation_figures, figure_label, shown, training_figures
from dunwu.reports.logged_completion import LoggedCompletion
from dunwu.reports.markdown import code_block, code_span, escaped, markdown_table
from dunwu.reports.progress import Progress, progress_of
from dunwu.reports.run_folder import RunFolder, outcome_text
from dunwu.reports.run_record import Session
from dunwu.reports.settings import flat_options, option_text

__all__ = ["REPORT", "report_card", "write_report"]

REPORT = "report.md"
"""Its name in the run's folder."""

_METHOD = ("loss_type", "beta", "learning_rate", "prompts_per_step", "num_generations", "max_completion_length")
_LONGEST = 1500
"""Characters of an answer that are shown."""


def write_report(run: RunFolder) -> Path:
    """Write the report card into the run's folder; a kill leaves the earlier one."""
    text, path = report_card(run), run.path / REPORT
    beside = path.with_name(f"{REPORT}.tmp")
    beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(beside, path)
    return path


def report_card(run: RunFolder) -> str:
    """The report card as Markdown.

    Raises:
        ConfigError: for a run that has not finished a step.
    """
    if not run.steps and not run.summary:
        raise ConfigError(f"{run.path} has not finished a step yet, so there is nothing to report")
    progress = progress_of(run)
    blocks = [
        f"# {escaped(_title(run))}",
        f"**{escaped(_result(run, progress))}**",
        markdown_table(["", ""], _facts(run), right=False),
        *_before_and_after(run, progress),
        *_picture(run),
        *_answers(three_answers(run)),
        *_findings(run.summary),
        *_next(run, progress),
    ]
    return "\n\n".join(blocks) + "\n"


def _title(run: RunFolder) -> str:
    options = flat_options(run.recipe)
    task = option_text(options.get("task.name", options.get("task", run.summary.get("task", ""))))
    model = str(options.get("model", "")).rstrip("/").rpartition("/")[2]
    return " · ".join(part for part in (run.path.resolve().name, task, model) if part)


def _result(run: RunFolder, progress: Progress) -> str:
    if run.outcome == "finished":
        return progress.sentence
    how = {
        "interrupted": translated("Interrupted after {steps}, before it was evaluated.", steps=_steps(run)),
        "failed": translated("Failed after {steps}.", steps=_steps(run)),
    }.get(run.outcome, translated("Still running, or killed, after {steps}.", steps=_steps(run)))
    return f"{how} {progress.sentence}"


def _steps(run: RunFolder) -> str:
    done, asked = run_steps(run), flat_options(run.recipe).get("train.max_steps", -1)
    if isinstance(asked, int) and asked > 0:
        return translated("{done} of {all} steps", done=done, all=asked)
    return translated("{n} step", n=done) if done == 1 else translated("{n} steps", n=done)


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    options = flat_options(run.recipe)
    record = run.record
    facts = [
        (translated("status"), outcome_text(run.outcome)),
        (translated("model"), option_text(options.get("model"))),
        (translated("adapter"), _section(options, "lora.")),
        (translated("data"), _data(options)),
        (translated("rewards"), _rewards(options)),
        (translated("method"), ", ".join(f"{name}={option_text(options.get(f'train.{name}'))}" for name in _METHOD)),
        (translated("seed"), option_text(options.get("train.seed"))),
        (translated("cost"), _cost(run)),
    ]
    if record is not None:
        facts += [
            (translated("versions"), ", ".join(f"{name} {version}" for name, version in record.versions.items())),
            (translated("commit"), record.commit),
            (translated("machine"), record.machine),
            (translated("processes"), str(record.processes)),
            (translated("starts"), _starts(record.sessions)),
        ]
    return [(name, value) for name, value in facts if value]


def _section(options: Mapping[str, object], prefix: str) -> str:
    found = {name.removeprefix(prefix): value for name, value in options.items() if name.startswith(prefix)}
    return ", ".join(f"{name}={option_text(value)}" for name, value in found.items())


def _data(options: Mapping[str, object]) -> str:
    name = option_text(options.get("task.name", options.get("task", "")))
    others = _section({key: value for key, value in options.items() if key != "task.name"}, "task.")
    return f"{name} ({others})" if others else name


def _rewards(options: Mapping[str, Any]) -> str:
    names, weights = options.get("rewards"), options.get("train.reward_weights")
    if not isinstance(names, list):
        return translated("the task's own") if names is None else option_text(names)
    if not isinstance(weights, list) or len(weights) != len(names):
        return option_text(names)
    return ", ".join(f"{name} × {weight:g}" for name, weight in zip(names, weights, strict=True))


def _cost(run: RunFolder) -> str:
    completions = [entry.get("num_completions", 0.0) for entry in run.steps]
    lengths = [entry.get("completions/mean_length", 0.0) for entry in run.steps]
    tokens = sum(count * length for count, length in zip(completions, lengths, strict=True))
    seconds, steps = run_seconds(run), run_steps(run)
    parts = [_steps(run)]
    if sum(completions):
        parts.append(
            translated("{n:,.0f} completions, {tokens:,.0f} tokens sampled", n=sum(completions), tokens=tokens)
        )
    if seconds:
        parts.append(translated("{time} of training", time=duration(seconds)))
        if steps:
            parts.append(translated("{n:.2f} s a step", n=seconds / steps))
    return "; ".join(parts)


def _starts(sessions: Sequence[Session]) -> str:
    """Each start of a run that was started more than once, or did not end well."""
    if len(sessions) < 2 and not any(session.error or session.changed for session in sessions):
        return ""
    return "; ".join(_start(session) for session in sessions)


def _start(session: Session) -> str:
    values = {"first": session.from_step, "last": session.to_step, "when": session.started}
    text = translated("{when}: from step {first} to {last}", **values) + f", {outcome_text(session.ended)}"
    changed = ", ".join(f"{name} {_pair(pair)}" for name, pair in session.changed.items())
    return text + (f" ({changed})" if changed else "") + (f" ({session.error})" if session.error else "")


def _pair(pair: Sequence[object]) -> str:
    return " → ".join(map(option_text, pair))


def _before_and_after(run: RunFolder, progress: Progress) -> list[str]:
    halves = {"before": evaluation_figures(run.summary, "before"), "after": evaluation_figures(run.summary, "after")}
    if not any(halves.values()):
        return _last_steps(run)
    there = {when: figures for when, figures in halves.items() if figures}
    head = ["", *(translated(when) for when in there)]
    rows = [
        [figure_label(name), *(figures[name].text() if name in figures else "–" for figures in there.values())]
        for name in shown(list(there.values()))
    ]
    counts = next(iter(there.values()), {}), run.summary.get("before") or run.summary.get("after") or {}
    note = translated(
        "{prompts:.0f} held-out prompts, {samples:.0f} samples each. In brackets: 95 % intervals over the prompts.",
        prompts=float(counts[1].get("prompts", 0)),
        samples=float(counts[1].get("samples", 0)),
    )
    if progress.prompts:
        note += " " + translated("p: pairs of answers to the same prompts (sign flips; McNemar).")
    return [f"## {translated('Before and after')}", markdown_table(head, rows), note]


def _last_steps(run: RunFolder) -> list[str]:
    rows = [[figure_label(name), figure.text()] for name, figure in training_figures(run.steps).items()]
    if not rows:
        return []
    note = translated("There was no held-out evaluation (`evaluate:` in a recipe asks for one).")
    return [f"## {translated('The last steps')}", markdown_table(["", ""], rows), note]


def _picture(run: RunFolder) -> list[str]:
    if not (run.path / "curves.png").is_file():
        return []
    return [f"![{translated('The curves of this run')}](curves.png)"]


def _answers(shown_answers: Sequence[ShownAnswer]) -> list[str]:
    if not shown_answers:
        return []
    blocks = [f"## {translated('Answers')}"]
    for one in shown_answers:
        first = one.answers[0][1]
        blocks += [f"### {escaped(one.title)}", f"{_asked(first)}"]
        for when, answer in one.answers:
            blocks += [f"{escaped(when)}{_judged(answer)}:", code_block(_excerpt(answer.text))]
    return blocks


def _asked(one: LoggedCompletion) -> str:
    columns = ", ".join(f"{name}={value!r}" for name, value in one.columns.items())
    asked = code_span(_excerpt(columns or one.prompt))
    return translated("Row {row}: {asked}", row=one.row, asked=asked)


def _judged(one: LoggedCompletion) -> str:
    parts = []
    if one.is_right is not None:
        parts.append(translated("right") if one.is_right else translated("wrong"))
    if one.reward is not None:
        parts.append(translated("reward {n}", n=f"{one.reward:.2f}"))
    parts.append(
        translated("{n} tokens, cut", n=one.tokens) if one.is_cut else translated("{n} tokens", n=one.tokens)
    )
    return f" ({', '.join(parts)})"


def _excerpt(text: str) -> str:
    """The beginning and the end of what is long."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} […] {text[-_LONGEST // 2 :]}"


def _findings(summary: Mapping[str, Any]) -> list[str]:
    """What the run found out about itself: `verdict` and `findings` in its summary."""
    given = [summary.get("verdict"), *_listed(summary.get("findings"))]
    lines = [text for text in map(_finding, given) if text]
    if not lines:
        return []
    return [f"## {translated('What was noticed')}", "\n".join(f"- {escaped(line)}" for line in lines)]


def _listed(findings: object) -> Sequence[object]:
    return findings if isinstance(findings, list) else [findings]


def _finding(found: object) -> str:
    if isinstance(found, Mapping):
        words = " ".join(str(found[name]) for name in ("what", "remedy") if found.get(name))
        return translated("After step {n}: {words}", n=found["step"], words=words) if "step" in found else words
    return found if isinstance(found, str) else ""


def _next(run: RunFolder, progress: Progress) -> list[str]:
    lines = [f"## {translated('What to try next')}"]
    for suggestion in suggestions(run, progress):
        lines.append(escaped(suggestion.text))
        if suggestion.command:
            lines.append(code_block(suggestion.command))
    return lines
