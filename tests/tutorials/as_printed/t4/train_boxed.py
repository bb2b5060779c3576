# A gold answer from a column of the dataset
import re

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer


def reward_func(completions, ground_truth, **kwargs):
    matches = [re.search(r"\\boxed{(.*?)}", completion) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]


print(reward_func(prompts=["1 + 1 ="], completions=[r" \boxed{2}"], ground_truth=["2"]))

dataset = Dataset.from_dict(
    {"prompt": [f"{n} + 4 =" for n in range(8)], "ground_truth": [str(n + 4) for n in range(8)]}
)

trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=reward_func,
    args=GRPOConfig(
        output_dir="Qwen2-0.5B-boxed", max_steps=2, num_generations=4, max_completion_length=16, logging_steps=1
    ),
    train_dataset=dataset,
)
trainer.train()
