"""Is the policy learning the task, or learning to please the reward? The sign is in three curves, not in one.

Reward hacking: the reward rises while what it stands for does not. The true quality is not measured during training,
but what gives it away is: the policy runs far from its reference (Gao et al. 2022, https://arxiv.org/abs/2210.10760,
where true reward turns over as the KL divergence grows), replies swell or collapse in length (Singhal et al. 2023,
https://arxiv.org/abs/2310.03716), the data's own replies to held-out prompts become unlikely, or the reward on those
prompts falls while the training reward rises.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.training.events import EvalEvent, Event, StepEvent, VerdictEvent

LEAST_STEPS = 8
"""Fewer steps have no trend that noise could not make."""

FAR = 0.5
"""Nats per token between the policy and its reference; healthy runs stay well under it."""

SWOLLEN = 1.75
"""Replies that got longer by this factor, or shorter by its inverse."""

UNLEARNED = 0.5
"""Nats per token by which the loss on the data's own held-out replies rises: they are 1.6 times as unlikely."""

SURE = 3.0
"""Standard errors by which the mean of the last third must exceed that of the first to be a rise."""

SIGNAL = "reward rises while the policy drifts, or its replies change in length"
MEND = (
    "Raise the KL penalty (grpo: beta, ppo: kl_coef), lower training.learning_rate, stop earlier, or mend the reward."
)

FRUITLESS_SIGNAL = "reward on held-out prompts stays where it was"
FRUITLESS_MEND = (
    "Raise training.learning_rate or training.steps; if training rewards are flat, too, look whether the reward tells "
    "the model's own good replies from its bad ones."
)


@dataclass(frozen=True)
class RewardCurves:
    """By step: mean reward; and, empty where not recorded, KL in nats per token, and reply length in tokens.

    By evaluation: `held_out` is the mean reward on held-out prompts, `answer_loss` the loss on the data's own replies.
    `before` is that reward before the first step, where it was measured.
    """

    reward: tuple[float, ...]
    kl: tuple[float, ...] = ()
    length: tuple[float, ...] = ()
    held_out: tuple[float, ...] = ()
    answer_loss: tuple[float, ...] = ()
    before: float | None = None


def read_rewards(events: Iterable[Event]) -> RewardCurves:
    """The reward curves in a run's events; empty for an objective without rewards."""
    reward: list[float] = []
    kl: list[float] = []
    length: list[float] = []
    held_out: list[float] = []
    answer_loss: list[float] = []
    before: float | None = None
    for event in events:
        match event:
            case EvalEvent(measures={"reward": value} as measures):
                held_out.append(value)
                before = value if event.step == 0 else before
                answer_loss += [measures["answer_loss"]] if "answer_loss" in measures else []
            case StepEvent(measures={"reward": value} as measures):
                reward.append(value)
                kl += [measures["kl"]] if "kl" in measures else []
                length += [measures["completions/mean_length"]] if "completions/mean_length" in measures else []
            case _:
                pass
    return RewardCurves(tuple(reward), tuple(kl), tuple(length), tuple(held_out), tuple(answer_loss), before)


def judge_rewards(curves: RewardCurves, step: int = 0, *, ended: bool = False) -> VerdictEvent | None:
    """Whether the reward is being hacked, or has `ended` where it began; None for an objective without rewards."""
    if not curves.reward:
        return None
    if len(curves.reward) < LEAST_STEPS:
        return VerdictEvent(step, "reward hacking", "note", "Too few steps to see a trend in the reward.", "")
    first, last = _thirds(curves.reward)
    evidence = f"mean reward {first.mean():.3g}, then {last.mean():.3g}"
    signs = []
    if curves.kl:
        distance = float(_thirds(curves.kl)[1].mean())
        evidence += f"; KL from the reference {distance:.2g} nats per token"
        signs += ["it is far from its reference"] if distance > FAR else []
    if curves.length:
        short, long = (float(part.mean()) for part in _thirds(curves.length))
        evidence += f"; replies of {short:.0f}, then {long:.0f} tokens"
        factor = long / max(short, 1.0)
        signs += ["its replies swell"] if factor > SWOLLEN else ["its replies collapse"] if factor < 1 / SWOLLEN else []
    overfitted = len(curves.held_out) >= 3 and _fell(curves.held_out)
    if overfitted:
        evidence += f"; on held-out prompts {max(curves.held_out):.3g}, then {curves.held_out[-1]:.3g}"
        signs.append("the reward on held-out prompts falls")
    if curves.answer_loss and curves.answer_loss[-1] > min(curves.answer_loss) + UNLEARNED:
        evidence += f"; loss on the data's own replies {min(curves.answer_loss):.3g}, then {curves.answer_loss[-1]:.3g}"
        signs.append("the data's own replies become unlikely")
    if not _rose(first, last) or not signs:
        best = max(curves.held_out[1:], default=None)
        if ended and curves.before is not None and best is not None and best <= curves.before:
            finding = (
                f"The reward on held-out prompts never rose: {curves.before:.3g} before training, then {best:.3g}."
            )
            return VerdictEvent(step, "underfitting", "warn", finding, FRUITLESS_MEND, evidence, FRUITLESS_SIGNAL)
        return VerdictEvent(step, "reward hacking", "good", "No sign of reward hacking.", "", evidence)
    grave = overfitted or len(signs) > 1
    finding = f"The reward rises, but {' and '.join(signs)}: it may be {'' if grave else 'starting to be '}hacked."
    return VerdictEvent(step, "reward hacking", "bad" if grave else "warn", finding, MEND, evidence, SIGNAL)


def _thirds(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    third = max(1, len(values) // 3)
    return np.asarray(values[:third]), np.asarray(values[-third:])


def _rose(first: np.ndarray, last: np.ndarray) -> bool:
    error = float(np.sqrt(first.var(ddof=1) / len(first) + last.var(ddof=1) / len(last)))
    return float(last.mean() - first.mean()) > max(SURE * error, 1e-9)


def _fell(held_out: Sequence[float]) -> bool:
    """By more than half of what it had gained over its start."""
    best = max(held_out)
    return best > held_out[0] and best - held_out[-1] > 0.5 * (best - held_out[0])
