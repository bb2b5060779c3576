"""What a run writes about itself at its start and end: its recipe, and each start with how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from dunwu._utils.distributed import ParallelContext
from dunwu.recipes.recipe import Recipe, recipe_as_yaml
from dunwu.recipes.start import RunStart, remove_run
from dunwu.reports.run_record import RunRecord, Session, new_record, now, read_record, write_record
from dunwu.training.checkpoint import steps_done

__all__ = ["OpenSession", "RunFiles"]


class RunFiles:
    """Writes `recipe.yaml` and `run.json`, on the main process.

    Args:
        recipe: what is run.
        start: where.
        parallel: the ranks.
    """

    def __init__(self, recipe: Recipe, start: RunStart, *, parallel: ParallelContext) -> None:
        self.recipe, self.start, self.parallel = recipe, start, parallel

    @contextmanager
    def session(self) -> Iterator[OpenSession]:
        """One start of the run, which ends with the block: finished, interrupted or failed."""
        record = self._begin() if self.parallel.is_main else None
        session = OpenSession()
        try:
            yield session
        except KeyboardInterrupt:
            self._end(record, session, ended="interrupted")
            raise
        except BaseException as error:
            self._end(record, session, ended="failed", error=f"{type(error).__name__}: {error}")
            raise
        self._end(record, session, ended="finished")

    def _begin(self) -> RunRecord:
        folder, checkpoint = self.start.folder, self.start.checkpoint
        if self.start.replaces:
            remove_run(folder)
        fresh = new_record(processes=self.parallel.size)
        earlier = read_record(folder) if checkpoint is not None else None
        done = steps_done(checkpoint) if checkpoint is not None else 0
        opened = Session(started=now(), from_step=done, to_step=done, changed=dict(self.start.changed))
        record = replace(fresh, sessions=earlier.sessions if earlier is not None else ()).with_new(opened)
        write_record(folder, record)
        kept = replace(self.recipe, train={**self.recipe.train, "output_dir": str(folder)}, resume=False)
        (folder / "recipe.yaml").write_text(recipe_as_yaml(kept), encoding="utf-8")
        return record

    def _end(self, record: RunRecord | None, session: OpenSession, **how: str) -> None:
        if record is not None:
            done = max(session.steps, record.sessions[-1].from_step)
            write_record(self.start.folder, record.with_last(to_step=done, seconds=session.seconds, **how))


class OpenSession:
    """How far the start that is under way has come."""

    def __init__(self) -> None:
        self.steps, self.seconds = 0, 0.0

    def update(self, steps: int, seconds: float) -> None:
        """Steps finished by the run, and its seconds of training, over all starts."""
        self.steps, self.seconds = steps, seconds
