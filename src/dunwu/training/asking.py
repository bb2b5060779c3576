"""What one wants of a trainer in a notebook: to ask its model something, and to see its curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dunwu.config.options import as_dict
from dunwu.core.protocols import Observer
from dunwu.core.records import Message
from dunwu.rollout.collector import RolloutCollector, sampling_params
from dunwu.rollout.observation import draw_history
from dunwu.rollout.training_prompts import prompts_for_model
from dunwu.training.resumable import ResumableTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["AskingTrainer"]


class AskingTrainer(ResumableTrainer):
    """A trainer whose model answers questions, before, between and after calls of `train`."""

    observers: list[Observer]
    _collector: RolloutCollector

    def ask(
        self, question: str | list[Message], *, temperature: float = 0.0, max_new_tokens: int | None = None
    ) -> str:
        """The model's answer, as it is now.

        Nothing of a training changes by it: no random state is used.

        Args:
            question: messages, or text; where the training prompts are chats, text becomes the user's message between
                the system message and the prefill of the training prompts, where they have such.
            temperature: 0 is greedy.
            max_new_tokens: token limit; default: that of the training.

        Raises:
            DataError: for a question that leaves no room for an answer.
        """
        limit = max_new_tokens or self.args.max_completion_length
        (prompt,) = prompts_for_model(
            [{"prompt": self._as_prompt(question)}],
            self.model,
            cast("PreTrainedTokenizerBase", self.processing_class),
            max_completion_length=limit,
            template_kwargs=as_dict(self.args.chat_template_kwargs),
        )
        sampling = sampling_params(self.args, step=self.state.global_step, n=1)
        sampling = replace(sampling, temperature=temperature, max_new_tokens=limit)
        return self._collector.complete(prompt, self.model, self.state.global_step, sampling).text

    def plot(self) -> Path:
        """Draw the run so far: `curves.png` in the output folder, shown under the cell in a notebook.

        Raises:
            DataError: before the first step.
        """
        return draw_history(self.observers, self.state.log_history, self.args)

    def _as_prompt(self, question: str | list[Message]) -> str | list[Message]:
        """The question in the form of the training prompts."""
        if not isinstance(question, str) or not self.prompts or not self.prompts[0].conversational:
            return question
        first = self.prompts[0].original
        turns = [turn for turn in first if isinstance(turn, dict)]
        system = [turn for turn in turns if turn.get("role") == "system"]
        prefill = [turn for turn in turns[-1:] if turn.get("role") == "assistant"]
        return [*system, {"role": "user", "content": question}, *prefill]
