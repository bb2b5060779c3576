"""A model that learns to answer in 20 characters: `python examples/ten_lines.py` (ten_lines.md explains it)."""

from datasets import load_dataset

from dunwu import GRPOConfig, GRPOTrainer


def reward_len(completions, **columns):
    return [-abs(20 - len(text)) for text in completions]


dataset = load_dataset("trl-lib/tldr", split="train")
config = GRPOConfig(output_dir="outputs/Qwen2-0.5B-GRPO", prompts_per_step=8, num_generations=8)
trainer = GRPOTrainer("Qwen/Qwen2-0.5B-Instruct", reward_len, config, dataset)
trainer.train()
trainer.save_model()
