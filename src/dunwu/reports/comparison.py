"""Runs beside each other: in which settings they differ, what they came to, and whether that is more than noise."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from dunwu.errors import ConfigError
from dunwu.reports.figures import Figure, evaluation_figures, training_figures
from dunwu.reports.held_out import HeldOutScores, held_out_scores
from dunwu.reports.run_folder import RunFolder, holds_a_run, open_run
from dunwu.reports.run_record import Outcome
from dunwu.reports.settings import differing_options, flat_options, option_text, same_setting, short_labels
from dunwu.reports.verdict import Compared, Side, Verdict, verdicts_on

__all__ = ["Comparison", "Setting", "compare_runs", "find_runs", "run_seconds", "run_steps"]

_DEEPEST = 3
"""Folders of folders in which runs are looked for."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting with its runs: one, or several that differ by their seeds.

    Example: `Setting(label="beta=0.01", runs=(RunFolder(Path("runs/a")),), options={"train.beta": "0.01"})`
    """

    label: str
    """Short and unlike the others."""
    runs: tuple[RunFolder, ...]
    """Its runs."""
    options: Mapping[str, str]
    """The options that differ between settings, as text."""

    @cached_property
    def of_runs(self) -> tuple[Mapping[str, Figure], ...]:
        """Each run's figures: after training, and of the last steps."""
        return tuple({**evaluation_figures(run.summary, "after"), **training_figures(run.steps)} for run in self.runs)

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """The run's figures; for several seeds the means of those that all of them have."""
        first = self.of_runs[0]
        shared = [name for name in first if all(name in figures for figures in self.of_runs)]
        return {name: _mean([figures[name] for figures in self.of_runs]) for name in shared}

    @cached_property
    def side(self) -> Side:
        """What a verdict needs."""
        scores = tuple(held_out_scores(run) for run in self.runs)
        return Side(label=self.label, figures=self.of_runs, held_out=scores if all(map(_any, scores)) else ())

    @property
    def seconds(self) -> list[float]:
        """Wall time of each run's training, where it is known."""
        return [seconds for run in self.runs if (seconds := run_seconds(run)) is not None]

    @property
    def steps(self) -> list[int]:
        """Steps of each run."""
        return [run_steps(run) for run in self.runs]

    @property
    def outcomes(self) -> list[Outcome]:
        """How each run ended."""
        return [run.outcome for run in self.runs]

    @property
    def seeds(self) -> list[object]:
        """Each run's seed; None where its recipe names none."""
        return [flat_options(run.recipe).get("train.seed") for run in self.runs]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Settings with their figures and the verdicts on them.

    Example: `Comparison(settings=(), differing=(), verdicts=()).left_out` is `()`.
    """

    settings: tuple[Setting, ...]
    """In the order given."""
    differing: tuple[str, ...]
    """Names of the options that differ, and of what else does: versions, commit, machine."""
    verdicts: tuple[Verdict, ...]
    """For each figure that is compared, and each pair of settings."""
    left_out: tuple[Path, ...] = ()
    """Runs in a folder of runs that have not finished a step."""

    @property
    def title(self) -> str:
        """Task and model, as far as all runs share them."""
        recipes = [flat_options(run.recipe) for setting in self.settings for run in setting.runs]
        shared = [{option_text(one.get(name)) for one in recipes} for name in ("task.name", "model")]
        return " · ".join(values.pop().rstrip("/").rpartition("/")[2] for values in shared if len(values) == 1)

    def table(self) -> str:
        """For a terminal of 80 columns."""
        from dunwu.reports.comparison_text import as_table

        return as_table(self)

    def markdown(self) -> str:
        """For a page."""
        from dunwu.reports.comparison_text import as_markdown

        return as_markdown(self)

    def json(self) -> str:
        """For a program: the same as one JSON object."""
        content = {
            "settings": [_setting_as_json(setting) for setting in self.settings],
            "differing": list(self.differing),
            "verdicts": [
                {**asdict(verdict), "beyond_noise": verdict.is_beyond_noise, "text": verdict.sentence()}
                for verdict in self.verdicts
            ],
            "left_out": [str(path) for path in self.left_out],
        }
        return json.dumps(content, indent=2, ensure_ascii=False, default=str)

    def draw(self, path: Path | str) -> Path:
        """Draw the settings' curves over each other, with mean and band over seeds.

        Raises:
            DataError: when no run has kept the metrics of its steps.
        """
        from dunwu.observers.plots import draw_comparison

        curves = {setting.label: [run.steps for run in setting.runs if run.steps] for setting in self.settings}
        return draw_comparison({label: steps for label, steps in curves.items() if steps}, path, title=self.title)


def compare_runs(folders: Sequence[str | Path]) -> Comparison:
    """Compare runs; those that differ by `train.seed` alone are seeds of one setting.

    Args:
        folders: of runs, or of folders of runs, such as a sweep's.

    Raises:
        ConfigError: for a folder that holds no run, a run that has not finished a step, and fewer than two runs.
        CheckpointError: for a run of a later version.
    """
    found = find_runs(folders)
    started = [run for run, _ in found if run.steps or run.summary]
    for run, is_named in found:
        if is_named and run not in started:
            raise ConfigError(f"{run.path} has not finished a step yet, so there is nothing to compare")
    if len(started) < 2:
        names = ", ".join(str(run.path) for run in started) or "none that has finished a step"
        raise ConfigError(f"a comparison needs at least two runs, got {names}; name another run or a folder of runs")
    settings, differing = _settings(started)
    return Comparison(
        settings=settings,
        differing=differing,
        verdicts=tuple(verdicts_on([one.side for one in settings], _compared(settings))),
        left_out=tuple(run.path for run, _ in found if run not in started),
    )


def find_runs(folders: Sequence[str | Path]) -> list[tuple[RunFolder, bool]]:
    """Each run once, and whether it was named itself and not found in a folder of runs."""
    found: dict[Path, tuple[RunFolder, bool]] = {}
    for folder in map(Path, folders):
        inside = [] if not folder.is_dir() or holds_a_run(folder) else _runs_below(folder, _DEEPEST)
        for path in inside or [folder]:
            found.setdefault(path.resolve(), (open_run(path), not inside))
    return list(found.values())


def run_seconds(run: RunFolder) -> float | None:
    """Wall time of training, over all starts; None where nothing says it."""
    given = run.summary.get("seconds")
    if not given and run.steps:
        given = run.steps[-1].get("seconds")
    return float(given) if given is not None else None


def run_steps(run: RunFolder) -> int:
    """Steps that were finished."""
    return int(run.steps[-1].get("step", len(run.steps))) if run.steps else int(run.summary.get("steps", 0))


def _runs_below(folder: Path, deepest: int) -> list[Path]:
    inside = sorted((path for path in folder.iterdir() if path.is_dir()), key=_natural)
    found: list[Path] = []
    for path in inside:
        if path.name.startswith("."):
            continue
        if holds_a_run(path):
            found.append(path)
        elif deepest > 1:
            found += _runs_below(path, deepest - 1)
    return found


def _natural(path: Path) -> list[tuple[int, str]]:
    """Ten after nine."""
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d+)|(\D+)", path.name)]


def _settings(runs: Sequence[RunFolder]) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    options = [flat_options(run.recipe) for run in runs]
    groups = same_setting(options)
    firsts = [options[group[0]] for group in groups]
    names = differing_options(firsts, seeds=all(len(group) == 1 for group in groups))
    made = [_made_with(runs[group[0]]) for group in groups]
    also = [name for name in differing_options(made) if all(name in one for one in made)]
    labels = short_labels(firsts, names, [[str(runs[index].path) for index in group] for group in groups])
    settings = tuple(
        Setting(
            label=label,
            runs=tuple(runs[index] for index in group),
            options={name: option_text({**first, **facts}.get(name)) for name in [*names, *also]},
        )
        for group, first, facts, label in zip(groups, firsts, made, labels, strict=True)
    )
    return settings, (*names, *also)


def _made_with(run: RunFolder) -> dict[str, object]:
    """Versions, commit and machine under names that no option has."""
    if run.record is None:
        return {}
    versions = {f"{name} (version)": version for name, version in run.record.versions.items()}
    return {**versions, "commit": run.record.commit, "machine": run.record.machine, "processes": run.record.processes}


def _compared(settings: Sequence[Setting]) -> list[Compared]:
    """Which figures can be compared: right answers, or rewards where nothing is ever right and all are paid alike."""
    tasks = {run.recipe["task"]["name"] if isinstance(run.recipe.get("task"), dict) else run.recipe.get("task")
             for setting in settings for run in setting.runs}  # fmt: skip
    if len(tasks) > 1:
        return []
    strict: list[Compared] = ["sampled_strict", "greedy_strict"]
    if any(name in one.figures and one.figures[name].value > 0 for one in settings for name in strict):
        return strict
    if any(setting.options.get(name) for setting in settings for name in ("rewards", "train.reward_weights")):
        return []
    return ["reward"] if all("reward" in setting.figures for setting in settings) else ["train/reward"]


def _mean(figures: Sequence[Figure]) -> Figure:
    if len(figures) == 1:
        return figures[0]
    values = [figure.value for figure in figures]
    return Figure(name=figures[0].name, value=statistics.fmean(values), deviation=statistics.stdev(values))


def _any(scores: HeldOutScores) -> bool:
    return any(scores.scores.values())


def _setting_as_json(setting: Setting) -> dict[str, object]:
    return {
        "label": setting.label,
        "options": dict(setting.options),
        "figures": {name: asdict(figure) for name, figure in setting.figures.items()},
        "runs": [
            {
                "folder": str(run.path),
                "seed": seed,
                "steps": steps,
                "seconds": run_seconds(run),
                "status": run.outcome,
                "figures": {name: figure.value for name, figure in figures.items()},
            }
            for run, seed, steps, figures in zip(
                setting.runs, setting.seeds, setting.steps, setting.of_runs, strict=True
            )
        ],
    }
