"""Pictures of runs, made with matplotlib and without a display: one run, several over each other, or any metrics."""

from dunwu.observers.plots.held_out import HeldOut, Share
from dunwu.observers.plots.pictures import draw_comparison, draw_curves, draw_run
from dunwu.observers.plots.texts import RunTitle

__all__ = ["HeldOut", "RunTitle", "Share", "draw_comparison", "draw_curves", "draw_run"]
