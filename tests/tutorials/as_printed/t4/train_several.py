# Several at once: two functions and a reward model, summed
from functools import partial

from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer


def reward_func1(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


def reward_func2(completions, length, **kwargs):
    return [-float(abs(length - len(completion))) for completion in completions]


near_twenty = partial(reward_func2, length=20)
near_twenty.__name__ = "near_twenty"

training_args = GRPOConfig(
    output_dir="Qwen2-0.5B-several",
    max_steps=2,
    num_generations=4,
    max_completion_length=16,
    logging_steps=1,
    reward_weights=[0.5, 1.0, 2.0],
    evaluation_strategy="steps",
    eval_steps=2,
)
data = load_dataset("trl-lib/tldr")
trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=[reward_func1, near_twenty, "trl-lib/Qwen2-0.5B-Reward"],
    args=training_args,
    train_dataset=data["train"],
    eval_dataset=data["validation"],
)
trainer.train()
