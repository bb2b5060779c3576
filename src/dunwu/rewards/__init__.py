"""Reward functions, and the runner that calls them safely.

What it is: the tutorials' rewards, value for value (`faithful`); repaired ones under names that say what they
do (`numbers`, `formats`, `countdown`, `text`); reward models (`RewardModel`); `RewardRunner`, which names
what goes wrong instead of scoring it 0; and `get_reward`, which finds one by name. What it is not: a choice
of rewards for a task (`dunwu.tasks`). Importing it loads neither transformers nor any optional package.

A reward function is called with keyword arguments `prompts`, `completions`, `completion_ids` and every dataset column
but `prompt`, and returns one number or None a completion.
"""

from dunwu.errors import RewardError
from dunwu.rewards.countdown import equation_solves, solves
from dunwu.rewards.formats import (
    answer_in_tags,
    completion_text,
    has_format,
    reasoning_answer_format,
    reasoning_answer_tags,
    tag_share,
    think_answer_format,
    think_answer_format_prefilled,
    think_answer_tags,
    think_answer_tags_prefilled,
)
from dunwu.rewards.numbers import (
    answer_is_number,
    last_number,
    lenient_correct,
    number_matches,
    number_matches_anywhere,
    numbers_equal,
    parse_number,
    strict_correct,
)
from dunwu.rewards.registry import BUILT_IN, get_reward, reward_functions
from dunwu.rewards.reward_model import RewardModel
from dunwu.rewards.runner import RewardRunner, combine
from dunwu.rewards.text import (
    boxed_answer,
    boxed_answer_matches,
    length_near,
    thought,
    thought_is_long,
    thought_lines_differ,
)
from dunwu.rewards.tutorials import (
    boxed_reward,
    correctness_reward_func,
    equation_reward_func,
    extract_hash_answer,
    extract_xml_answer,
    format_reward_func,
    int_reward_func,
    reward_len,
    reward_longer,
    soft_format_reward_func,
    strict_format_reward_func,
    think_answer_format_reward,
    thought_len_reward_func,
    xmlcount_reward_func,
)

__all__ = [
    "BUILT_IN",
    "RewardError",
    "RewardModel",
    "RewardRunner",
    "answer_in_tags",
    "answer_is_number",
    "boxed_answer",
    "boxed_answer_matches",
    "boxed_reward",
    "combine",
    "completion_text",
    "correctness_reward_func",
    "equation_reward_func",
    "equation_solves",
    "extract_hash_answer",
    "extract_xml_answer",
    "format_reward_func",
    "get_reward",
    "has_format",
    "int_reward_func",
    "last_number",
    "length_near",
    "lenient_correct",
    "number_matches",
    "number_matches_anywhere",
    "numbers_equal",
    "parse_number",
    "reasoning_answer_format",
    "reasoning_answer_tags",
    "reward_functions",
    "reward_len",
    "reward_longer",
    "soft_format_reward_func",
    "solves",
    "strict_correct",
    "strict_format_reward_func",
    "tag_share",
    "think_answer_format",
    "think_answer_format_prefilled",
    "think_answer_format_reward",
    "think_answer_tags",
    "think_answer_tags_prefilled",
    "thought",
    "thought_is_long",
    "thought_len_reward_func",
    "thought_lines_differ",
    "xmlcount_reward_func",
]
