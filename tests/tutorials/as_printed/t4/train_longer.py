# Longer is better: text in, text out
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer


def reward_func(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


prompts = ["The sky is", "The sun is"]
completions = [" blue.", " in the sky."]
print(reward_func(prompts=prompts, completions=completions))

training_args = GRPOConfig(output_dir="Qwen2-0.5B-longer", max_steps=2, num_generations=4, max_completion_length=16)
trainer = GRPOTrainer(
    model="Qwen/Qwen2-0.5B-Instruct",
    reward_funcs=reward_func,
    args=training_args,
    train_dataset=load_dataset("trl-lib/tldr", split="train"),
)
trainer.train()
