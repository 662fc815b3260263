from pathlib import Path

import pytest

from tunesmith.errors import SpecError
from tunesmith.planning.cost import Price, costs, gpu_hours, load_prices, train_flops
from tunesmith.planning.gpus import find_gpu, known_gpus
from tunesmith.planning.shapes import load_shape

ROW = b'[[price]]\nprovider = "Ours"\nmodel = "any"\nas_of = "2030-01"\nsource = "me"\n'


def row(provider: str, model: str, override: Path | None = None) -> Price:
    return next(price for price in load_prices(override) if (price.provider, price.model) == (provider, model))


def test_the_fields_four_rows_are_in_the_table() -> None:
    mini, large = row("OpenAI", "GPT-4o-mini FT"), row("OpenAI", "GPT-4o FT")
    together = row("Together.ai", "Llama 8B")
    assert (mini.train_per_million_tokens, mini.input_per_million_tokens, mini.output_per_million_tokens) == (
        3,
        0.6,
        2.4,
    )
    assert (large.train_per_million_tokens, large.input_per_million_tokens, large.output_per_million_tokens) == (
        25,
        3.75,
        15,
    )
    assert (together.train_per_gpu_hour, together.input_per_million_tokens, together.gpu) == (0.5, 0.2, "A100 80GB")
    assert row("Self-hosted", "any open model").source == "GPU cost only"
    assert all(price.as_of for price in load_prices())


def test_a_million_tokens_cost_the_list_price() -> None:
    shape = load_shape("meta-llama/Llama-3.1-8B")
    found = costs(load_prices(), shape, "lora", find_gpu("a100 80gb"), tokens=1_000_000, length=500)
    assert [cost.training_usd for cost in found[:2]] == [3.0, 25.0]
    assert found[3].hours is not None
    assert found[3].training_usd == pytest.approx(1.79 * found[3].hours)


def test_flops_are_six_per_parameter_and_token_and_four_with_a_frozen_base() -> None:
    shape = load_shape("meta-llama/Llama-3.1-8B")
    full = train_flops(shape, "full", 1_000, length=0)
    assert full == 6 * shape.parameters * 1_000
    assert train_flops(shape, "lora", 1_000, length=0) == full * 4 / 6
    assert gpu_hours(3600 * 312e12 * 0.35, find_gpu("a100-80gb")) == pytest.approx(1)


def test_a_table_of_ones_own_replaces_and_adds_rows(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(
        '[[price]]\nprovider = "OpenAI"\nmodel = "GPT-4o FT"\ntrain_per_million_tokens = 1.0\n'
        'as_of = "2030-01"\nsource = "me"\n'
        '[[price]]\nprovider = "Ours"\nmodel = "any"\ntrain_per_gpu_hour = 2.0\nas_of = "2030-01"\nsource = "me"\n'
    )
    assert row("OpenAI", "GPT-4o FT", own).train_per_million_tokens == 1.0
    assert row("Ours", "any", own).train_per_gpu_hour == 2.0
    assert row("OpenAI", "GPT-4o-mini FT", own).train_per_million_tokens == 3.0


@pytest.mark.parametrize(
    "text",
    [
        b"[[price]]\nprovider = 3\n",
        b"not toml [",
        b'[[price]]\nprovder = "x"\n',
        b"\xff\xfe",
        ROW + b"train_per_million_tokens = -3.0\n",
        ROW + b'train_per_gpu_hour = 2.0\ngpu = "voodoo"\n',
    ],
)
def test_a_broken_price_table_is_named(tmp_path: Path, text: bytes) -> None:
    own = tmp_path / "mine.toml"
    own.write_bytes(text)
    with pytest.raises(SpecError, match=r"mine\.toml"):
        load_prices(own)


@pytest.mark.parametrize(
    ("name", "found"), [("h100", "H100 80GB"), ("NVIDIA A100 80GB", "A100 80GB"), ("4090", "RTX 4090 24GB")]
)
def test_a_gpu_is_found_by_its_words(name: str, found: str) -> None:
    assert find_gpu(name).name == found


def test_an_ambiguous_or_unknown_gpu_lists_the_choices() -> None:
    with pytest.raises(SpecError, match="A100 40GB, A100 80GB"):
        find_gpu("a100")
    with pytest.raises(SpecError, match="L40S 48GB"):
        find_gpu("voodoo")
    assert len({gpu.name for gpu in known_gpus()}) == len(known_gpus())
