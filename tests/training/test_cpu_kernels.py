"""The compiled kernels against torch's own operations: within 1e-6 relative in fp32, and no further off in bf16."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tunesmith.training import compiling, cpu_kernels

needs_compiler = pytest.mark.skipif(
    not any(map(compiling.shutil.which, compiling.COMPILERS)), reason="no C compiler is installed"
)

Numbers = Callable[..., Tensor]


def norm(numbers: Numbers) -> list[Tensor]:
    x, weight = numbers(5, 70), numbers(70)
    total, normed, inverse = cpu_kernels.rms_norm(x, None, weight, 1e-5)
    slope = numbers(5, 70)
    assert total is x
    return [normed, inverse, cpu_kernels.rms_norm_backward(slope, None, x, weight, inverse)]


def norm_of_a_sum(numbers: Numbers) -> list[Tensor]:
    x, added, weight = numbers(5, 70), numbers(5, 70), numbers(70)
    total, normed, inverse = cpu_kernels.rms_norm(x, added, weight, 1e-5)
    slopes = numbers(5, 70), numbers(5, 70)
    return [total, normed, inverse, cpu_kernels.rms_norm_backward(*slopes, total, weight, inverse)]


def swiglu(numbers: Numbers) -> list[Tensor]:
    gate, up = numbers(7, 33) * 20, numbers(7, 33)
    return [cpu_kernels.swiglu(gate, up), *cpu_kernels.swiglu_backward(numbers(7, 33), gate, up)]


def rotation(numbers: Numbers) -> list[Tensor]:
    x, angles = numbers(3, 9, 20).transpose(0, 1), numbers(9, 10).repeat(1, 2)
    into = [torch.empty_like(x).transpose(0, 1).contiguous().transpose(0, 1), torch.empty_like(x)]
    return [cpu_kernels.rotate(x, angles.cos(), angles.sin(), out, back=back) for back, out in enumerate(into)]


def attention_weights(numbers: Numbers) -> list[Tensor]:
    weights = cpu_kernels.causal_softmax(numbers(2, 15, 23) * 30, 5, 0.3)
    assert not weights.view(2, 3, 5, 23)[..., -5:].triu(1).any()
    return [weights, cpu_kernels.softmax_backward(numbers(2, 15, 23), weights, 0.3)]


def head(numbers: Numbers) -> list[Tensor]:
    logits = numbers(6, 99) * 10
    return [cpu_kernels.cross_entropy(logits, torch.tensor([0, 98, 7, 7, 50, 1])), logits]


OPERATIONS = [norm, norm_of_a_sum, swiglu, rotation, attention_weights, head]


def run(operation: Callable[[Numbers], list[Tensor]], dtype: torch.dtype) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    # bf16 numbers in all types, so that what is computed of them is the same
    return operation(lambda *shape: torch.randn(shape, generator=random).bfloat16().to(dtype))


def by_torch(operation: Callable[[Numbers], list[Tensor]], dtype: torch.dtype) -> list[Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_kernels, "library", lambda dtype: None)
        return run(operation, dtype)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@needs_compiler
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_compute_what_torch_does(operation: Callable[[Numbers], list[Tensor]]) -> None:
    assert cpu_kernels.library(torch.float32) is not None
    for mine, theirs in zip(run(operation, torch.float32), by_torch(operation, torch.float32), strict=True):
        assert mine.dtype == torch.float32
        assert distance(mine, theirs) <= 1e-6


@needs_compiler
@pytest.mark.parametrize("operation", OPERATIONS)
def test_kernels_in_bf16_round_once(operation: Callable[[Numbers], list[Tensor]]) -> None:
    assert cpu_kernels.library(torch.bfloat16) is not None
    exact = by_torch(operation, torch.float32)
    for mine, theirs, truth in zip(
        run(operation, torch.bfloat16), by_torch(operation, torch.bfloat16), exact, strict=True
    ):
        assert mine.dtype == theirs.dtype
        assert distance(mine, truth) <= max(1.1 * distance(theirs, truth), 2e-3)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    threads = torch.get_num_threads()
    expected = [tensor for operation in OPERATIONS for tensor in run(operation, dtype)]
    torch.set_num_threads(threads + 1)
    try:
        found = [tensor for operation in OPERATIONS for tensor in run(operation, dtype)]
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, found, expected))


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none_stay_so(dtype: torch.dtype) -> None:
    for value in (math.nan, math.inf):
        logits = torch.zeros(1, 40, dtype=dtype)
        logits[0, 3] = value
        assert not cpu_kernels.cross_entropy(logits.clone(), torch.tensor([5])).isfinite().any()
        assert cpu_kernels.causal_softmax(logits[None].clone(), 1, 1.0).isnan().any()
        x, ones = torch.full((1, 40), value, dtype=dtype), torch.ones(40, dtype=dtype)
        assert not cpu_kernels.swiglu(x, x).isfinite().any()
        assert not cpu_kernels.rms_norm(x, None, ones, 1e-5)[1].isfinite().any()


def test_tensors_that_the_kernels_do_not_know_are_left_to_torch() -> None:
    gate, up = torch.randn(4, 6), torch.randn(4, 6, dtype=torch.float64)
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(cpu_kernels.swiglu(gate, up).double(), expected, rtol=1e-6, atol=0)
    gate, up = torch.randn(6, 4).t(), torch.randn(4, 6)
    torch.testing.assert_close(cpu_kernels.swiglu(gate, up), torch.nn.functional.silu(gate) * up)


def test_without_a_compiler_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "COMPILERS", ("no-such-compiler",))
    assert compiling.compiled(cpu_kernels.SOURCES, ["OTHER_THAN_EVER"]) is None


@needs_compiler
def test_code_that_does_not_compile_leaves_no_entry(tmp_path: Path, compiled_kernels: Path) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("int wrong(void) { return }")
    before = set(compiled_kernels.iterdir())
    assert compiling.compiled([source], []) is None
    assert set(compiled_kernels.iterdir()) == before


@needs_compiler
def test_two_that_compile_at_once_both_get_their_kernels(tmp_path: Path, compiled_kernels: Path) -> None:
    source = tmp_path / "two.c"
    source.write_text("int two(void) { return 2; }")
    before = set(compiled_kernels.iterdir())
    with ThreadPoolExecutor(2) as pool:
        libraries = list(pool.map(lambda _: compiling.compiled([source], []), range(2)))
    assert [library and library.two() for library in libraries] == [2, 2]
    assert len(set(compiled_kernels.iterdir()) - before) == 1
