import re

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.report.charts import Series, bar_chart, histogram, line_chart, thinned, ticks

FINITE = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@given(FINITE, st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_few_and_within_the_axis(low: float, span: float, count: int) -> None:
    found = ticks(low, low + span, count)
    assert len(found) <= count + 1
    assert all(low - span * 1e-3 <= tick <= low + span * 1.001 for tick in found)


def test_ticks_are_round() -> None:
    assert ticks(0, 2.4, 5) == [0, 0.5, 1.0, 1.5, 2.0]


@given(st.lists(FINITE, min_size=1, max_size=100))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    counts = re.findall(r"<title>[^<]*: ([\d,]+)</title>", histogram(values, x_label="tokens"))
    assert sum(int(count.replace(",", "")) for count in counts) == 2 * len(values)


@given(st.lists(FINITE, min_size=1, max_size=60))
def test_a_line_stays_inside_its_chart(values: list[float]) -> None:
    chart = line_chart([Series("a", "train", list(enumerate(values)))], x_label="x", y_label="y")
    for points in re.findall(r'points="([^"]*)"', chart):
        for x, y in (map(float, point.split(",")) for point in points.split()):
            assert 0 <= x <= 720
            assert 0 <= y <= 300


def test_names_in_charts_are_escaped() -> None:
    assert "<b>" not in bar_chart([("<b>bold</b>", 1), ("plain", 2)], unit="rows")


@given(st.lists(FINITE, min_size=1, max_size=400), st.integers(10, 100))
def test_thinning_keeps_the_ends_the_extremes_and_the_order(values: list[float], most: int) -> None:
    points = list(enumerate(values))
    kept = thinned(points, most)
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert {min(values), max(values)} <= {y for _, y in kept}
    assert list(kept) == sorted(kept)
    assert len(kept) <= most + 4
