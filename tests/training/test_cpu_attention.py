"""Compiled attention over a forest against masked attention in fp64: 1e-6 apart in fp32, as far as torch in bf16."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.training import cpu_attention
from tunesmith.training.forest_attention import _ForestAttention
from tunesmith.training.shared_prefix import Forest, plant
from tunesmith.training.stretches import stretches, whole_forest

SCALE = 0.3

HEADS = [(4, 2, 64), (3, 3, 20), (6, 1, 80)]
"""Heads, groups of them that read the same keys, and their width."""


@pytest.fixture(autouse=True)
def _compiled_here() -> None:
    if not cpu_attention.available(*torch.zeros(3, 1, 1, 2)):
        pytest.skip("no compiler is installed, or it is not for this processor")


def planted(lengths: Sequence[int], shared: int) -> Forest:
    """Rows that begin with the same tokens, every second of them with as many more, and one that shares nothing."""
    random = np.random.default_rng(0)
    head, more = random.integers(0, 999, (2, shared))
    rows = [
        np.concatenate([head, more[: shared * (index % 2)], random.integers(0, 999, length)])
        for index, length in enumerate(lengths)
    ]
    return plant([row.astype(np.int32) for row in [*rows, random.integers(1000, 1999, 5)]])


FOREST = planted([30, 3, 90, 17, 1, 140], 37)


def states(forest: Forest, heads: int, groups: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    """Query, key, value and the output's gradient, of bf16 numbers whatever the type."""
    random, tokens = torch.Generator().manual_seed(0), len(forest.tokens)
    shapes = [(heads, tokens, width), (groups, tokens, width), (groups, tokens, width), (tokens, heads, width)]
    return [torch.randn(shape, generator=random).bfloat16().to(dtype) for shape in shapes]


def compiled(forest: Forest, numbers: list[Tensor]) -> list[Tensor]:
    query, key, value, by_output = numbers
    assert cpu_attention.available(query, key, value)
    table = whole_forest(forest).table
    output, softmax = cpu_attention.attend(query, key, value, table, SCALE)
    by_query, *others = cpu_attention.attend_backward(by_output, query, key, value, softmax, table, SCALE)
    return [output, by_query.transpose(0, 1), *others]


def masked(forest: Forest, numbers: list[Tensor]) -> list[Tensor]:
    seen = torch.zeros(len(forest.tokens), len(forest.tokens), dtype=torch.bool)
    for part in forest.segments:
        own = slice(part.start, part.end)
        seen[own, own] = torch.ones_like(seen[own, own]).tril()
        for ancestor in part.ancestors:
            seen[own, ancestor.start : ancestor.end] = True
    query, key, value = (tensor.double().requires_grad_() for tensor in numbers[:3])
    repeated = [tensor.repeat_interleave(len(query) // len(key), 0) for tensor in (key, value)]
    logits = (query @ repeated[0].transpose(1, 2) * SCALE).masked_fill(~seen, -torch.inf)
    output = (logits.softmax(-1) @ repeated[1]).transpose(0, 1)
    return [output.detach(), *torch.autograd.grad(output, (query, key, value), numbers[3].double())]


def by_torch(forest: Forest, numbers: list[Tensor]) -> list[Tensor]:
    query, key, value = (tensor.clone().requires_grad_() for tensor in numbers[:3])
    output = _ForestAttention.apply(query, key, value, whole_forest(forest), SCALE, 0)
    return [output.detach(), *torch.autograd.grad(output, (query, key, value), numbers[3])]


def distances(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize("heads", HEADS)
def test_output_and_gradients_are_those_of_masked_attention(heads: tuple[int, int, int]) -> None:
    numbers = states(FOREST, *heads, torch.float32)
    assert max(distances(compiled(FOREST, numbers), masked(FOREST, numbers))) < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 40))
def test_every_forest_is_computed(lengths: list[int], shared: int) -> None:
    forest = planted(lengths, shared)
    numbers = states(forest, 2, 1, 32, torch.float32)
    assert max(distances(compiled(forest, numbers), masked(forest, numbers))) < 2e-6


@pytest.mark.parametrize("heads", HEADS)
def test_in_bf16_it_is_as_near_as_torch(heads: tuple[int, int, int]) -> None:
    numbers = states(FOREST, *heads, torch.bfloat16)
    if not cpu_attention.available(*numbers[:3]):
        pytest.skip("this processor has no products of bf16 numbers")
    truth = masked(FOREST, numbers)
    ours, theirs = (distances(compute(FOREST, numbers), truth) for compute in (compiled, by_torch))
    assert all(mine <= 1.1 * their for mine, their in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("lanes", [2, 3])
def test_stretches_together_are_the_forest(lanes: int) -> None:
    query, key, value, by_output = numbers = states(FOREST, 4, 2, 64, torch.float32)
    outputs, by_queries, by_others = [], [], torch.zeros(2, *key.shape)
    for stretch in stretches(FOREST, lanes):
        own, seen = slice(stretch.start, stretch.end), slice(stretch.end)
        those = query[:, own], key[:, seen], value[:, seen]
        output, softmax = cpu_attention.attend(*those, stretch.table, SCALE)
        by_query, *others = cpu_attention.attend_backward(by_output[own], *those, softmax, stretch.table, SCALE)
        outputs.append(output)
        by_queries.append(by_query.transpose(0, 1))
        by_others[:, :, seen] += torch.stack(others)
    found = [torch.cat(outputs), torch.cat(by_queries, 1), *by_others]
    assert len(outputs) == lanes
    assert max(distances(found, [tensor.double() for tensor in compiled(FOREST, numbers)])) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    numbers = states(FOREST, 4, 2, 64, dtype)
    if not cpu_attention.available(*numbers[:3]):
        pytest.skip("this processor has no products of bf16 numbers")
    threads = torch.get_num_threads()
    expected = compiled(FOREST, numbers)
    torch.set_num_threads(threads + 2)
    try:
        found = compiled(FOREST, numbers)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, found, expected))


def test_a_key_that_is_no_number_shows() -> None:
    numbers = states(FOREST, 4, 2, 64, torch.float32)
    numbers[1][0, 3, 5] = torch.nan  # in the head that most rows begin with
    first, second = compiled(FOREST, numbers)[0].isnan().any(-1).T[[0, 2]]
    assert first.sum() > 100
    assert not second.any()


def test_states_of_other_types_and_shapes_are_left_to_torch() -> None:
    query, key, value, _ = states(FOREST, 4, 2, 64, torch.float32)
    assert cpu_attention.available(query, key, value)
    assert not cpu_attention.available(query, key, value[..., :32])
    assert not cpu_attention.available(query, key.bfloat16(), value)
    assert not cpu_attention.available(*(tensor.double() for tensor in (query, key, value)))
