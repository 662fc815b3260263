"""The stylesheet's colours are legible: WCAG 2.2 contrast of at least 4.5 for text, in light and dark."""

import re

import pytest

from tunesmith.assets import stylesheet

STYLE = stylesheet("style")


def palette(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[:2]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if scheme == "light" else light + dark))


def luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "quiet", "tuned", "base", "good", "warn", "bad"])
@pytest.mark.parametrize("ground", ["paper", "card", "soft"])
def test_text_is_legible_on_every_ground(scheme: str, text: str, ground: str) -> None:
    colours = palette(scheme)
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_and_highlights_are_legible(scheme: str) -> None:
    colours = palette(scheme)
    assert contrast(colours["ink"], colours["mark"]) >= 4.5
    assert all(contrast(colours["card"], colours[status]) >= 4.5 for status in ("good", "warn", "bad"))
