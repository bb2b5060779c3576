"""A calculator answers the model, which then tries once more: python examples/calculator.py

The embedded model learns Countdown for a few steps on a CPU, in conversations of at most two turns: it answers, an
environment says what the answer comes to, and it answers again. Only the model's own tokens are trained on, and the
rewards read its last message.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import dunwu
from dunwu.rewards import answer_in_tags
from dunwu.rewards.countdown import evaluate_expression


class Calculator:
    """A `dunwu.Environment`: `7+15-13=9 no` for a wrong answer; a right or unreadable one ends the conversation."""

    def reply(self, row: dict[str, Any], messages: Sequence[dict[str, str]]) -> dict[str, str] | None:
        """The value of the model's answer, exactly, in words that its tokenizer has."""
        expression = answer_in_tags(messages[-1]["content"])
        value = None if expression is None else evaluate_expression(expression)
        if value is None or value == row["target"]:
            return None
        return {"role": "user", "content": f"{expression}={value} no\n"}


class Show(dunwu.Observer):
    """Prints each step's reward, and its first conversation of several turns."""

    def on_step(self, step: dunwu.StepResult) -> None:
        print(f"\nstep {step.index}: reward {step.metrics['reward']:.3f}")
        talks = [(group.prompt, r) for group in step.groups for r in group.rollouts if r.completion.messages]
        for prompt, rollout in talks[:1]:
            for message in [*prompt.original, *rollout.completion.messages]:
                print(f"  {message['role']:>9}: {message['content'].strip()}".replace("\n", " ⏎ "))
            print(f"     earned: {rollout.reward}")


def train(steps: int, *observers: dunwu.Observer) -> None:
    """Train for `steps` optimizer steps; nothing is kept."""
    task = dunwu.quickstart_task()
    with tempfile.TemporaryDirectory() as folder:
        config = dunwu.GRPOConfig(
            output_dir=folder,
            max_steps=steps,
            prompts_per_step=16,
            num_generations=8,
            max_turns=2,
            max_completion_length=120,  # of the whole conversation, the calculator's tokens included
            learning_rate=2.5e-4,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = dunwu.GRPOTrainer(
            dunwu.embedded_model_path(),
            list(task.rewards),
            config,
            dunwu.prompt_rows(task, task.rows("train")),
            environment=Calculator(),
            observers=observers,
        )
        trainer.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10)
    train(parser.parse_args().steps, Show())
