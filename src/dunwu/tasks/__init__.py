"""Tasks: rows, a prompt for each, rewards, and a gold answer that proves the rewards.

task = get_task("countdown", style="tiny")
validate(task, task.rows("test")[:100])
"""

from dunwu.tasks.countdown import Countdown
from dunwu.tasks.custom import Own
from dunwu.tasks.gsm8k import SYSTEM_PROMPT, XML_COT_FORMAT, Gsm8k
from dunwu.tasks.registry import TASKS, get_task, with_rewards
from dunwu.tasks.tldr import Tldr
from dunwu.tasks.validation import GoldFailure, Validation, validate

__all__ = [
    "SYSTEM_PROMPT",
    "TASKS",
    "XML_COT_FORMAT",
    "Countdown",
    "GoldFailure",
    "Gsm8k",
    "Own",
    "Tldr",
    "Validation",
    "get_task",
    "validate",
    "with_rewards",
]
