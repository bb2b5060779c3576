"""`dunwu chat MODEL`: talk to a model, and see what the chat template makes of a message.

A run's folder comes with its task: a message is asked as the task asks its rows, with the token limit of training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dunwu._utils.language import translated
from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from dunwu.core.protocols import Task
    from dunwu.core.records import Message, Prompt, Row
    from dunwu.recipes.trained_model import TrainedModel

__all__ = ["add_arguments", "run"]

_HELP = "/template shows the text the model reads, /ids its tokens, /reset starts anew, /quit ends"
_LIMIT = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a run's folder, a hub name, a model's folder, or `embedded`")
    parser.add_argument("--system", help="a system message (default: that of the run's task, if it has one)")
    parser.add_argument("--message", action="append", help="send this and end; several are turns of one conversation")
    parser.add_argument("--plain", action="store_true", help="send messages as they are, not as the run's task would")
    parser.add_argument("--show-template", action="store_true", help="print the text the model reads at every turn")
    parser.add_argument("--show-ids", action="store_true", help="print its tokens, ids beside text")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        help=f"token limit of an answer (default: that of the run's training, or {_LIMIT})",
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", choices=("auto", "hf", "modelscope", "local"), default="auto")


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Converse until /quit, the end of input, or the last `--message`."""
    from dunwu.recipes.trained_model import find_model

    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens must be at least 1, got {args.max_new_tokens}")
    if not 0 <= args.temperature < float("inf"):
        raise ConfigError(f"--temperature must be 0 or more, got {args.temperature}")
    model = find_model(args.model)
    if args.max_new_tokens is None:
        args.max_new_tokens = (model.recipe.get("train") or {}).get("max_completion_length", _LIMIT)
    talk = _Conversation(args, model)
    if args.message:
        for message in args.message:
            print(f"> {message}\n{talk.answer(message)}")
        return 0
    if sys.stdin is None:
        raise ConfigError("there is no standard input to read from; give --message")
    interactive = sys.stdin.isatty()
    if interactive:
        print("\n".join(map(translated, [*talk.introduction(), _HELP])))
    while (line := _read(interactive)) is not None and line != "/quit":
        if line:
            print(talk.command(line) if line.startswith("/") else talk.answer(line), flush=True)
    return 0


class _Conversation:
    """A model with the messages so far."""

    def __init__(self, args: argparse.Namespace, model: TrainedModel) -> None:
        from dunwu.engines import make_engine
        from dunwu.rollout.prompts import check_tokenizer

        self.args, self.name = args, model
        self.task = None if args.plain else _task_of(model)
        self.model, self.tokenizer = model.load(args.source)
        check_tokenizer(self.tokenizer, needs_template=self.task is None)
        self.engine = make_engine(self.model, self.tokenizer)
        self.messages: list[Message] = []
        self.row: Row | None = None
        self.reset()

    def introduction(self) -> list[str]:
        """What one should know before the first message, with something to ask."""
        lines = [f"{self.name.name}: answers of up to {self.args.max_new_tokens} tokens"]
        if self.task is not None:
            lines.append(f"messages are asked as the task {self.task.name} asks (--plain sends them as they are)")
        solved = _solved(self.name)
        if solved:
            lines.append(f"for example, which it gets right: {solved}")
        return lines

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [{"role": "system", "content": self.args.system}] if self.args.system else []
        self.row = None

    def command(self, line: str) -> str:
        """What `/reset`, `/template` or `/ids` prints; the help for anything else."""
        if line == "/reset":
            self.reset()
            return translated("a new conversation")
        if line in ("/template", "/ids"):
            if self.row is None and not any(message["role"] == "user" for message in self.messages):
                return translated("send a message first")
            return self._shown(self._prompt(), ids=line == "/ids")
        return translated(_HELP)

    def answer(self, text: str) -> str:
        """The model's answer to the next message; a question of the task's is a conversation of its own."""
        from dunwu.core.records import SamplingParams
        from dunwu.engines import ready

        self.row = self._row(text)
        if self.row is None:
            self.messages.append({"role": "user", "content": text})
        prompt = self._prompt()
        sampling = SamplingParams(
            max_new_tokens=self.args.max_new_tokens, temperature=self.args.temperature, seed=self.args.seed
        )
        with ready(self.engine, self.model, version=0):
            ((completion,),) = self.engine.generate([prompt], sampling)
        if self.row is None:
            self.messages.append({"role": "assistant", "content": completion.text})
        shown = []
        if self.args.show_template or self.args.show_ids:
            shown.append(self._shown(prompt, ids=self.args.show_ids))
        cut = " [cut at the limit; --max-new-tokens raises it]" if completion.finish_reason == "length" else ""
        return "\n".join([*shown, completion.text + translated(cut) + self._mark(completion.text)])

    def _row(self, text: str) -> Row | None:
        """The row of the task that the text stands for, if it is one."""
        row_of = getattr(self.task, "row_of", None)
        row: Row | None = row_of(text) if row_of is not None and not self.args.system else None
        return row

    def _mark(self, answer: str) -> str:
        """Whether the answer is right, where the task can tell."""
        if self.task is None or self.row is None or self.task.gold_completion(self.row) is None:
            return ""
        right = self.task.grade(self.row, answer).strict
        return f"  [{translated('correct') if right else translated('wrong')}]"

    def _prompt(self) -> Prompt:
        from dunwu.rollout.training_prompts import prompts_for_model

        if self.row is not None and self.task is not None:
            asked: object = self.task.prompt(self.row)
        else:
            asked = self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages
        rows = [{**(self.row or {}), "prompt": asked}]
        return prompts_for_model(rows, self.model, self.tokenizer, max_completion_length=self.args.max_new_tokens)[0]

    def _shown(self, prompt: Prompt, *, ids: bool) -> str:
        from dunwu.rollout.prompts import describe_prompt

        return describe_prompt(prompt, self.tokenizer, most=10_000) if ids else prompt.text


def _task_of(model: TrainedModel) -> Task | None:
    """The task that a run trained on, without its data; None where the model is of no run."""
    if not model.recipe:
        return None
    from dunwu.recipes.recipe import make_recipe
    from dunwu.recipes.wiring import make_task

    recipe = make_recipe({**model.recipe, "rewards": None, "max_reward": None, "source": "auto"})
    return make_task(recipe, for_training=False)


def _solved(model: TrainedModel) -> str:
    """A held-out question that the model answered right, greedily; as one types it."""
    if model.run is None or (model.recipe.get("task") or {}).get("name") != "countdown":
        return ""
    for line in model.run.evaluated("after"):
        if line["sample"] is None and line["strict"]:
            return f"{' '.join(map(str, line['columns']['nums']))} = {line['columns']['target']}"
    return ""


def _read(interactive: bool) -> str | None:
    try:
        return input("> " if interactive else "").strip()
    except EOFError:
        return None
