"""Rules for a run that learns something else than it should, or comes apart."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Final

from dunwu._utils.language import translated
from dunwu.observers.run_history import RunHistory, Told, gain, is_format

__all__ = ["collapse", "format_wins", "held_out", "kl_explodes", "ratio_off", "sampler_gap"]

_CERTAIN_NATS: Final = 0.05
_FAR_NATS: Final = 1.0
_GAP_NATS: Final = 0.05


def kl_explodes(run: RunHistory, n: int) -> Told | None:
    """The policy runs away from the reference."""
    kl, all_kl = run.last("kl", n), run.column("kl")
    before = all_kl[-n - 20 : -n]
    if not kl or min(kl) < _FAR_NATS or len(before) < 5 or fmean(kl) < 5 * fmean(before):
        return None
    return (
        translated("kl rose from {before:.2g} to {now:.2g} nats a token.", before=fmean(before), now=fmean(kl)),
        translated("Take a third of the learning rate, or a larger beta."),
    )


def collapse(run: RunHistory, n: int) -> Told | None:
    """Completions get short and certain, and no better."""
    lengths, entropies = run.last("completions/mean_length", 10 * n), run.last("entropy", 10 * n)
    rewards = run.last("reward", 10 * n)
    if not lengths or not entropies:
        return None
    long, short = fmean(lengths[:n]), fmean(lengths[-n:])
    is_certain = fmean(entropies[-n:]) < min(_CERTAIN_NATS, fmean(entropies[:n]) / 2)
    if short > long / 2 or not is_certain or fmean(rewards[-n:]) > fmean(rewards[:n]):
        return None
    return (
        translated(
            "In {n} steps the completions shrank from {long:.0f} to {short:.0f} tokens and the entropy to "
            "{entropy:.3f} nats, without a better reward: the model has become short and certain.",
            n=10 * n,
            long=long,
            short=short,
            entropy=fmean(entropies[-n:]),
        ),
        translated("A lower learning rate, epsilon_high=0.28, no reward for being short."),
    )


def format_wins(run: RunHistory, n: int) -> Told | None:
    """The format is learned and the answer is not."""
    formats = [name for name in run.reward_names() if is_format(name)]
    answers = [name for name in run.reward_names() if not is_format(name)]
    full = [name for name in formats if _is_full(run, name, n // 5)]
    if not full or not answers or len(run.steps) < n:
        return None
    flat = [name for name in answers if _is_flat(run, name, n) and run.mean(f"rewards/{name}/std", n) > 0]
    flat = [name for name in flat if not _has_risen(run, name)]  # what is learned may stand still
    if len(flat) < len(answers):
        return None
    return (
        translated(
            "{format} is paid nearly always ({paid:.2f}), while {answer} has not risen in {n} steps ({value:.2f}).",
            format=", ".join(full),
            paid=run.mean(f"rewards/{full[0]}/mean", n // 5),
            answer=", ".join(flat),
            n=n,
            value=run.mean(f"rewards/{flat[0]}/mean", n),
        ),
        translated("The easy reward is all that is learned: give the answer more weight, or scale_rewards='none'."),
    )


def sampler_gap(run: RunHistory, n: int) -> Told | None:
    """Sampler and policy come apart."""
    gap, first = (
        run.last("sampling/sampling_logp_difference/mean", n),
        run.column("sampling/sampling_logp_difference/mean")[:n],
    )
    if run.samples_otherwise() or not gap or min(gap) < _GAP_NATS or fmean(gap) < 3 * fmean(first):
        return None
    return (
        translated(
            "Sampler and policy differ by {gap:.2g} nats a token, {first:.2g} at the start: the completions come "
            "from other weights than those that train.",
            gap=fmean(gap),
            first=fmean(first),
        ),
        translated("Take engine='transformers', and please report it."),
    )


def ratio_off(run: RunHistory, n: int) -> Told | None:
    """Rollouts that are used once have a ratio other than 1."""
    ratios = run.last("importance_ratio/mean", n)
    if run.updates > 1 or not ratios or min(abs(ratio - 1) for ratio in ratios) < 0.02:
        return None
    return (
        translated(
            "The importance ratio is {ratio:.3f} where rollouts are used once: it should be 1.", ratio=fmean(ratios)
        ),
        translated("Take engine='transformers', and please report it."),
    )


def held_out(run: RunHistory, n: int) -> Told | None:
    """The training reward rises, and the held-out reward does not."""
    held_out = run.held_out_rewards()
    if len(held_out) < 3:
        return None
    (first_step, first), (last_step, last) = held_out[0], held_out[-1]
    trained = [run.reward_until(step, n) for step in (first_step, last_step)]
    rise, noise = gain([*trained[0], *trained[1]])
    if last_step - first_step < n or rise < 2 * noise or rise <= 0:
        return None
    if any(value > first + rise / 5 for _, value in held_out[-2:]):
        return None
    return (
        translated(
            "Since step {step} the training reward has risen by {rise:.2f}, and the held-out reward has not "
            "({first:.2f}, now {last:.2f}).",
            step=first_step,
            rise=rise,
            first=first,
            last=last,
        ),
        translated("Read the best-paid completions: the reward is tricked, or the rows are learned by heart."),
    )


def _is_flat(run: RunHistory, name: str, n: int) -> bool:
    values = run.last(f"rewards/{name}/mean", n)
    rise, noise = gain(values) if values else (math.inf, 0.0)
    return rise <= 2 * noise


def _has_risen(run: RunHistory, name: str) -> bool:
    """Whether a reward has risen since the run began, beyond its noise."""
    rise, noise = gain(run.column(f"rewards/{name}/mean"))
    return rise > 2 * noise


def _is_full(run: RunHistory, name: str, n: int) -> bool:
    """Whether nearly every completion got the same, above 0, and more than at the start."""
    values, spreads = run.last(f"rewards/{name}/mean", n), run.last(f"rewards/{name}/std", n)
    start = run.column(f"rewards/{name}/mean")[:n]
    return (
        bool(values)
        and bool(spreads)
        and fmean(values) > 0
        and fmean(spreads) < 0.25 * fmean(values)
        and (fmean(values) > fmean(start))
    )
