import pytest

from tunesmith.errors import SpecError
from tunesmith.training.bench import bench

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 1024,
}


@pytest.mark.parametrize(
    ("options", "message"), [({"against": "axolotl"}, "--against"), ({"cases": ["x"]}, "--case x")]
)
def test_what_cannot_be_measured_is_refused_at_once(options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        bench(**options)


@pytest.mark.slow
def test_both_engines_are_measured_on_the_same_rows() -> None:
    pytest.importorskip("trl")
    result = bench(against="trl", cases=["dpo"], steps=1, rounds=1, shape=TINY)
    ours, theirs = result.lines
    assert ours.engine == "Tunesmith"
    assert theirs.engine.startswith("TRL, default settings")
    assert min(ours.tokens_per_second, theirs.tokens_per_second, ours.peak_bytes, theirs.peak_bytes) > 0
    assert theirs.times_faster == pytest.approx(ours.tokens_per_second / theirs.tokens_per_second)
    assert ours.times_faster is None
