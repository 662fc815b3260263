"""Choosing tokens: greedy, seeded, within the nucleus, with the model's own log-probabilities reported."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from tunesmith.server.sampling import Sampling, choose_tokens


@dataclass
class Row:
    sampling: Sampling
    seed: int = 0
    counts: Counter[int] = field(default_factory=Counter)
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        self.luck = np.random.default_rng(self.seed)

    def allowed(self) -> Tensor | None:
        return self.mask


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def draw(sampling: Sampling, times: int = 4000) -> Counter[int]:
    rows = [Row(sampling, seed) for seed in range(times)]
    return Counter(choice.token for choice in choose_tokens(LOGITS.repeat(times, 1), rows))


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draw(Sampling(temperature=0), 5) == {0: 5}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_says(temperature: float) -> None:
    wanted = torch.softmax(LOGITS / temperature, -1)
    found = draw(Sampling(temperature=temperature))
    for token, probability in enumerate(wanted.tolist()):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    cumulative = torch.softmax(LOGITS, -1).cumsum(-1)  # 0.64, 0.88, 0.97, 1
    assert set(draw(Sampling(top_p=float(cumulative[0]) - 0.01))) == {0}
    assert set(draw(Sampling(top_p=float(cumulative[1]) - 0.01))) == {0, 1}


def test_a_rows_luck_does_not_depend_on_its_company() -> None:
    alone = choose_tokens(LOGITS[None], [Row(Sampling(), 7)])[0]
    crowd = [Row(Sampling(), seed) for seed in (1, 7, 3)]
    assert choose_tokens(LOGITS.repeat(3, 1), crowd)[1] == alone


def test_what_is_not_allowed_never_comes() -> None:
    mask = torch.tensor([False, True, False, True])
    rows = [Row(Sampling(temperature=2), seed, mask=mask) for seed in range(200)]
    assert {choice.token for choice in choose_tokens(LOGITS.repeat(200, 1), rows)} == {1, 3}


def test_penalties_and_biases_shift_the_choice_but_not_the_reported_logprobs() -> None:
    row = Row(Sampling(temperature=0, frequency_penalty=1.0, logprobs=2), counts=Counter({0: 3}))
    (choice,) = choose_tokens(LOGITS[None].clone(), [row])
    assert choice.token == 1
    assert choice.logprob == pytest.approx(float(torch.log_softmax(LOGITS, -1)[1]), abs=1e-6)
    assert [token for token, _ in choice.top] == [0, 1]
    (biased,) = choose_tokens(LOGITS[None].clone(), [Row(Sampling(temperature=0, logit_bias={3: 100}))])
    assert biased.token == 3
