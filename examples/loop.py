"""GRPO in one screen, from the pieces that the trainer is made of: python examples/loop.py

The embedded model learns Countdown for a few steps on a CPU. A test holds that after three steps its weights are
those of `GRPOTrainer`, bit for bit. The trainer adds processes, checkpoints, KL, several updates a sampling, …
"""

import torch

import dunwu


def train(steps: int = 3, seed: int = 42, prompts_per_step: int = 4, n: int = 8, limit: int = 60) -> torch.nn.Module:
    """Returns the model after `steps` optimizer steps."""
    model = dunwu.load_model(dunwu.embedded_model_path())
    tokenizer = dunwu.load_tokenizer(dunwu.embedded_model_path())
    task = dunwu.quickstart_task()
    prompts, _ = dunwu.build_prompts(dunwu.prompt_rows(task, task.rows("train")[:64]), tokenizer)
    rewards = dunwu.RewardRunner(task.rewards)
    engine = dunwu.make_engine(model, tokenizer)
    algorithm = dunwu.AlgorithmConfig(loss_aggregation="token_mean")
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-4, weight_decay=0.0)
    order = iter(dunwu.PromptOrder(size=len(prompts), per_step=prompts_per_step, repeats=1, seed=seed))

    for step in range(steps):
        chosen = [prompts[i] for i in next(order)]
        sampling = dunwu.SamplingParams(n=n, max_new_tokens=limit, seed=seed, step=step)
        with dunwu.ready(engine, model, version=step):
            groups = dunwu.collect(chosen, engine, rewards, sampling)
        groups = dunwu.add_advantages(groups, algorithm)

        lengths = dunwu.trained_token_counts(groups, mask_truncated=False)
        denominator = dunwu.loss_denominator(lengths, "token_mean", limit)
        model.train()
        for batch in dunwu.make_micro_batches(
            groups, loss_aggregation="token_mean", tokens=2048, skip_zero_advantage=True
        ):
            logps_BC, _ = dunwu.forward_logps(model, batch)
            loss_BC = dunwu.token_loss(algorithm, logps_BC, batch.advantages_B, batch.mask_BC).loss_BC
            ((loss_BC * batch.weights_BC).sum() / denominator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

        rollouts = [rollout for group in groups for rollout in group.rollouts]
        print(f"step {step + 1}: reward {sum(r.reward or 0.0 for r in rollouts) / len(rollouts):.3f}")
    return model


if __name__ == "__main__":
    train(steps=10)
