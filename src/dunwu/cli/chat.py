"""`dunwu chat MODEL`: talk to a model, and see what the chat template makes of a message."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dunwu.errors import ConfigError

if TYPE_CHECKING:
    from dunwu.core.records import Message, Prompt

__all__ = ["add_arguments", "run"]

_HELP = "/template shows the text the model reads, /ids its tokens, /reset starts anew, /quit ends"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("model", metavar="MODEL", help="a hub name, a folder, or `embedded`")
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--message", action="append", help="send this and end; several are turns of one conversation")
    parser.add_argument("--show-template", action="store_true", help="print the text the model reads at every turn")
    parser.add_argument("--show-ids", action="store_true", help="print its tokens, ids beside text")
    parser.add_argument(
        "--max-new-tokens", type=int, default=512, help="token limit of an answer (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace, overrides: Mapping[str, str]) -> int:
    """Converse until /quit, the end of input, or the last `--message`."""
    if args.max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens must be at least 1, got {args.max_new_tokens}")
    if not 0 <= args.temperature < float("inf"):
        raise ConfigError(f"--temperature must be 0 or more, got {args.temperature}")
    talk = _Conversation(args)
    if args.message:
        for message in args.message:
            print(f"> {message}\n{talk.answer(message)}")
        return 0
    if sys.stdin is None:
        raise ConfigError("there is no standard input to read from; give --message")
    interactive = sys.stdin.isatty()
    if interactive:
        print(f"{args.model}: {_HELP}")
    while (line := _read(interactive)) is not None and line != "/quit":
        if line:
            print(talk.command(line) if line.startswith("/") else talk.answer(line), flush=True)
    return 0


class _Conversation:
    """A model with the messages so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        from dunwu.engines import make_engine
        from dunwu.model.loading import load_model, to_best_device
        from dunwu.recipes.wiring import make_tokenizer, model_source
        from dunwu.rollout.prompts import check_tokenizer

        self.args = args
        self.tokenizer = make_tokenizer(args.model)
        check_tokenizer(self.tokenizer, needs_template=True)
        self.model = to_best_device(load_model(model_source(args.model)))
        self.engine = make_engine(self.model, self.tokenizer)
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [{"role": "system", "content": self.args.system}] if self.args.system else []

    def command(self, line: str) -> str:
        """What `/reset`, `/template` or `/ids` prints; the help for anything else."""
        if line == "/reset":
            self.reset()
            return "a new conversation"
        if line in ("/template", "/ids"):
            if not any(message["role"] == "user" for message in self.messages):
                return "send a message first"
            return self._shown(self._prompt(), ids=line == "/ids")
        return _HELP

    def answer(self, text: str) -> str:
        """The model's answer to the next message."""
        from dunwu.core.records import SamplingParams
        from dunwu.engines import ready

        self.messages.append({"role": "user", "content": text})
        prompt = self._prompt()
        sampling = SamplingParams(
            max_new_tokens=self.args.max_new_tokens, temperature=self.args.temperature, seed=self.args.seed
        )
        with ready(self.engine, self.model, version=0):
            ((completion,),) = self.engine.generate([prompt], sampling)
        self.messages.append({"role": "assistant", "content": completion.text})
        shown = []
        if self.args.show_template or self.args.show_ids:
            shown.append(self._shown(prompt, ids=self.args.show_ids))
        cut = " [cut at --max-new-tokens]" if completion.finish_reason == "length" else ""
        return "\n".join([*shown, completion.text + cut])

    def _prompt(self) -> Prompt:
        from dunwu.rollout.training_prompts import prompts_for_model

        turns = self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages
        rows = [{"prompt": turns}]
        return prompts_for_model(rows, self.model, self.tokenizer, max_completion_length=self.args.max_new_tokens)[0]

    def _shown(self, prompt: Prompt, *, ids: bool) -> str:
        from dunwu.rollout.prompts import describe_prompt

        return describe_prompt(prompt, self.tokenizer, most=10_000) if ids else prompt.text


def _read(interactive: bool) -> str | None:
    try:
        return input("> " if interactive else "").strip()
    except EOFError:
        return None
