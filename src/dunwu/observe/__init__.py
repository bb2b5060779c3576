"""What watches a run: each is an `Observer`, told of every step, and none changes anything.

`Console` prints a line now and then, `NotebookProgress` draws under a notebook's cell, `History` keeps the figures,
`RolloutLog` writes down what the model said, and `draw_curves` makes a picture of a history.
"""

from dunwu.observe.console import Console
from dunwu.observe.curves import draw_curves
from dunwu.observe.history import History
from dunwu.observe.notebook import NotebookProgress, show_in_notebook
from dunwu.observe.rollouts import RolloutLog

__all__ = ["Console", "History", "NotebookProgress", "RolloutLog", "draw_curves", "show_in_notebook"]
