# A format, on conversational prompts: each completion is a list of messages
import re

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer


def format_reward_func(completions, **kwargs):
    pattern = r"^<think>.*?</think><answer>.*?</answer>$"
    completion_contents = [completion[0]["content"] for completion in completions]
    matches = [re.match(pattern, content) for content in completion_contents]
    return [1.0 if match else 0.0 for match in matches]


print(format_reward_func(completions=[[{"role": "assistant", "content": "<think>3 + 4</think><answer>7</answer>"}]]))

dataset = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"What is {n} + 4?"}] for n in range(8)]})

trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=format_reward_func,
    args=GRPOConfig(
        output_dir="Qwen2-0.5B-format", max_steps=2, num_generations=4, max_completion_length=64, logging_steps=1
    ),
    train_dataset=dataset,
)
trainer.train()
