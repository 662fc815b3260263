import pytest

from tunesmith.planning.figures import compact, dollars, duration, number, size


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (size(512), "512 B"),
        (size(23_300_000), "23.3 MB"),
        (size(160e9), "160 GB"),
        (compact(999), "999"),
        (compact(3_475_712), "3.48M"),
        (compact(8_030_261_248), "8.03B"),
        (dollars(None), "-"),
        (dollars(0.004), "<$0.01"),
        (dollars(1234.5), "$1,234.50"),
        (duration(8.04), "8.0 s"),
        (duration(75), "75 s"),
        (duration(600), "10.0 min"),
        (duration(7200), "2.0 h"),
        (number(2e-4), "2e-4"),
        (number(2.5e-5), "2.5e-5"),
        (number(0.05), "0.05"),
        (number(2048), "2048"),
        (number("cosine"), "cosine"),
    ],
)
def test_numbers_are_written_as_people_write_them(written: str, expected: str) -> None:
    assert written == expected
