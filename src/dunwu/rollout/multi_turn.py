"""Conversations: an engine that lets an environment answer the model, turn by turn.

The tokens of a conversation are only ever appended: what the model sampled stays as sampled, and what the chat
template puts around the environment's message is tokenised once, by itself. So the ids that are trained on are those
that the model saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from dunwu.core.protocols import Engine, Environment
from dunwu.core.records import Completion, FinishReason, Message, Prompt, SamplingParams
from dunwu.errors import ConfigError
from dunwu.rollout.prompts import next_turn_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["MultiTurnEngine"]


class MultiTurnEngine:
    """An `Engine` whose completions are conversations with an environment, flattened.

    After each turn of the model that ended by itself, `environment.reply` is asked; its message and the template's
    own tokens follow, marked as not sampled, and the model goes on. A conversation ends when the environment returns
    None, when the model has had `max_turns` turns, or when `max_new_tokens`, which counts all tokens after the
    prompt, leaves no tokens for another turn (`finish_reason` is then `length`).

    Args:
        engine: makes each turn.
        environment: answers the model.
        tokenizer: the policy's, for its chat template.
        max_turns: turns of the model in one conversation at most.
        template_kwargs: extra arguments of the chat template, the same as for the prompts.

    Raises:
        ConfigError: for fewer than one turn, or an environment without `reply`.
    """

    def __init__(
        self,
        engine: Engine,
        environment: Environment,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_turns: int = 8,
        template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if max_turns < 1:
            raise ConfigError(f"max_turns={max_turns} must be at least 1")
        if not callable(getattr(environment, "reply", None)):
            raise ConfigError(
                f"an environment needs a method reply(row, messages) that returns a message or None; "
                f"{type(environment).__name__} has none"
            )
        self.engine, self.environment, self.tokenizer = engine, environment, tokenizer
        self.max_turns = max_turns
        self.template_kwargs = template_kwargs or {}

    def sync_weights(self, policy: nn.Module, *, version: int) -> None:
        """As the engine that makes the turns."""
        self.engine.sync_weights(policy, version=version)

    def session(self) -> AbstractContextManager[object]:
        """As the engine that makes the turns."""
        return self.engine.session()

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Completion]]:
        """`sampling.n` conversations for each prompt, in order.

        Raises:
            ConfigError: for prompts that are not chat messages.
            DataError: for a template that turns cannot be appended to.
        """
        first = self.engine.generate(prompts, sampling)
        talks = [
            _Conversation.begin(prompt, sample, completion, sampling.max_new_tokens)
            for prompt, completions in zip(prompts, first, strict=True)
            for sample, completion in enumerate(completions)
        ]
        for turn in range(1, self.max_turns):
            going = [talk for talk in talks if self._goes_on(talk)]
            if not going:
                break
            for part in _fitting(going, sampling.max_new_tokens):
                self._take_turn(part, turn, sampling)
        done = [talk.completion() for talk in talks]
        n = sampling.n
        return [done[start : start + n] for start in range(0, len(done), n)]

    def _goes_on(self, talk: _Conversation) -> bool:
        """Ask the environment; append its message where there is one and tokens are left for another turn."""
        if talk.is_over:
            return False
        message = self.environment.reply(talk.prompt.row, list(talk.conversation))
        if message is None:
            talk.is_over = True
            return False
        ids = next_turn_ids(self.tokenizer, message, last_id=talk.ids[-1], template_kwargs=self.template_kwargs)
        if len(ids) >= talk.tokens_left:
            talk.cut()
            return False
        talk.add_reply(message, ids)
        return True

    def _take_turn(self, talks: list[_Conversation], turn: int, sampling: SamplingParams) -> None:
        # Sampling with a larger token limit than a conversation has left and cutting the rest off is the same as
        # sampling with its own limit: a token's draw does not depend on the limit.
        max_new_tokens = max(talk.tokens_left for talk in talks)
        answers = self.engine.generate(
            [talk.next_prompt(turn) for talk in talks], replace(sampling, n=1, max_new_tokens=max_new_tokens)
        )
        for talk, (completion,) in zip(talks, answers, strict=True):
            talk.add_turn(completion, self.tokenizer)


@dataclass(kw_only=True)
class _Conversation:
    """One sample of a prompt on its way through its turns."""

    prompt: Prompt
    sample: int
    max_tokens: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    is_over: bool = False

    @classmethod
    def begin(cls, prompt: Prompt, sample: int, completion: Completion, max_tokens: int) -> _Conversation:
        if isinstance(prompt.original, str):
            raise ConfigError(
                "an environment answers chat messages, and the prompts are text; give prompts as "
                "[{'role': 'user', 'content': …}]"
            )
        talk = cls(prompt=prompt, sample=prompt.first_sample + sample, max_tokens=max_tokens)
        talk._append(completion)
        return talk

    @property
    def tokens_left(self) -> int:
        """Tokens left under the token limit."""
        return self.max_tokens - len(self.ids)

    @property
    def conversation(self) -> Iterator[Message]:
        """All messages, the prompt's included; a prefilled beginning is part of the model's first message."""
        assert not isinstance(self.prompt.original, str)
        *before, last = self.prompt.original
        if last["role"] == "assistant":
            first, *rest = self.messages
            yield from [*before, {**first, "content": last["content"] + first["content"]}, *rest]
        else:
            yield from [*before, last, *self.messages]

    def next_prompt(self, turn: int) -> Prompt:
        return replace(
            self.prompt, ids=(*self.prompt.ids, *self.ids), first_sample=self.sample, turn=turn, text=self.prompt.text
        )

    def add_reply(self, message: Message, ids: list[int]) -> None:
        """The environment's message and the template's tokens around it: seen, not sampled."""
        self.messages.append(message)
        self.ids += ids
        self.logps += [0.0] * len(ids)
        self.sampled += [False] * len(ids)

    def add_turn(self, completion: Completion, tokenizer: PreTrainedTokenizerBase) -> None:
        """The model's turn, cut to the tokens that were left."""
        if len(completion.ids) > self.tokens_left:
            ids = completion.ids[: self.tokens_left]
            known = [i for i in ids if i < len(tokenizer)]
            completion = replace(
                completion,
                ids=ids,
                sampler_logps=completion.sampler_logps[: self.tokens_left],
                finish_reason="length",
                text=str(tokenizer.decode(known, skip_special_tokens=True)),
            )
        self._append(completion)

    def cut(self) -> None:
        """End it: no tokens are left for another turn."""
        self.finish_reason, self.is_over = "length", True

    def completion(self) -> Completion:
        """The conversation, flattened."""
        texts = [message["content"] for message in self.messages if message["role"] == "assistant"]
        return Completion(
            ids=tuple(self.ids),
            sampler_logps=tuple(self.logps),
            finish_reason=self.finish_reason,
            text="\n".join(texts),
            sampled=None if all(self.sampled) else tuple(self.sampled),
            messages=tuple(self.messages) if len(self.messages) > 1 else (),
        )

    def _append(self, completion: Completion) -> None:
        self.messages.append({"role": "assistant", "content": completion.text})
        self.ids += completion.ids
        self.logps += completion.sampler_logps
        self.sampled += [True] * len(completion.ids)
        self.finish_reason = completion.finish_reason
        self.is_over = completion.finish_reason == "length" or self.tokens_left <= 0


def _fitting(talks: list[_Conversation], max_new_tokens: int) -> Iterator[list[_Conversation]]:
    """Parts whose longest prompt and most tokens left together need no longer context than the first turn did."""
    most = max(len(talk.prompt.ids) for talk in talks) + max_new_tokens
    part: list[_Conversation] = []
    longest = most_left = 0
    for talk in sorted(talks, key=lambda talk: len(talk.prompt.ids) + len(talk.ids)):
        length = len(talk.prompt.ids) + len(talk.ids)
        if part and length + max(most_left, talk.tokens_left) > most:
            yield part
            part, longest, most_left = [], 0, 0
        part.append(talk)
        longest, most_left = max(longest, length), max(most_left, talk.tokens_left)
    yield part
