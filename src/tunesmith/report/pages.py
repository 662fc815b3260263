"""What every page shares: the templates (autoescaped), the stylesheet, and how numbers are written for people."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.assets import stylesheet
from tunesmith.planning.figures import compact, dollars, duration, number, probability, size
from tunesmith.planning.plan import METHOD_NAMES
from tunesmith.planning.show import data_line, fits, fits_where, inference, openai_count, pays_from, rows

STATUS_WORDS = {
    "pass": "passed",
    "warn": "look at this",
    "fail": "failed",
    "good": "good",
    "note": "note",
    "bad": "bad",
}
STATUS_MARKS = {"pass": "✓", "good": "✓", "note": "i", "warn": "!", "fail": "✗", "bad": "✗"}

MINUS = "\N{MINUS SIGN}"


def render(template: str, **values: object) -> str:
    """The page `template` as HTML text, its stylesheet inlined."""
    page = _environment().get_template(template)
    return page.render(layout="base.html.j2", style=Markup(stylesheet("style")), **values)  # noqa: S704  # our own stylesheet


def render_part(template: str, block: Literal["main", "plan"], **values: object) -> Markup:
    """One block of the page `template`, for a page that has a frame and a stylesheet of its own."""
    page = _environment().get_template(template)
    return Markup(page.render(layout=f"part/{block}.html.j2", **values))  # noqa: S704  # an autoescaped template


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tunesmith.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["duration"] = duration
    environment.filters["size"] = size
    environment.filters["figure"] = figure
    environment.filters["file_name"] = file_name
    environment.filters["place"] = place
    environment.filters["sentence"] = sentence
    environment.filters["measure"] = measure
    environment.filters["compact"] = compact
    environment.filters["probability"] = probability
    environment.filters["setting"] = number
    environment.filters["dollars"] = dollars
    environment.filters["pays_from"] = pays_from
    environment.filters["fits"] = fits
    environment.filters["fits_where"] = fits_where
    environment.filters["rows"] = rows
    environment.filters["data_line"] = data_line
    environment.filters["inference"] = inference
    environment.filters["openai_count"] = openai_count
    environment.globals["method_names"] = METHOD_NAMES
    environment.globals["status_words"] = STATUS_WORDS
    environment.globals["status_marks"] = STATUS_MARKS
    return environment


def file_name(where: str) -> str:
    """The last part of a path (with its line, if any): pages show it and keep the whole path in a tooltip."""
    return where.replace("\\", "/").rsplit("/", 1)[-1]


def place(where: str, files: Sequence[str]) -> str:
    """Where a row is: its line (and column) alone where all rows are of one file, else the file's name too."""
    return where.removeprefix(f"{files[0]}:") if len(files) == 1 else file_name(where)


def sentence(text: str) -> str:
    """`text` beginning with a capital, its other letters as they are: "token F1" keeps its F."""
    return text[:1].upper() + text[1:]


def figure(value: float) -> str:
    """A number with three decimals at most and no more figures than it carries."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}".rstrip("0").rstrip(".")


def measure(value: float) -> str:
    """A measured value to the same number of decimals as others of its magnitude, so that columns line up."""
    if not math.isfinite(value):
        return "not a number"
    decimals = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{decimals}f}".replace("-", MINUS)
