"""The embedded default: a small base model and sample data sets, so that everything runs with no network.

Beside them lies the CSS that all pages share. All are plain files in their ordinary layouts, the model and the data
read by the code that reads everybody's; `tools/` in the repository makes them. They cost the installed package 8 MB.
"""

from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

SampleName: TypeAlias = Literal["tickets", "extraction", "style", "preference", "dirty", "general", "retention"]

SAMPLES: Final[tuple[SampleName, ...]] = get_args(SampleName)
"""Ticket classification, extraction to JSON, style transfer, preference pairs, a deliberately dirty set (its truth is
`dirty.truth.json` beside it), general conversation to mix into training so that little is forgotten, and other
general conversation that tells how much was."""

_ROOT = Path(__file__).parent


def embedded_model() -> Path:
    """The folder of the embedded base model, in Hugging Face's layout."""
    return _ROOT / "model"


def sample(name: SampleName) -> Path:
    """The JSONL file of the sample data set `name`, one of `SAMPLES`."""
    return _ROOT / "data" / f"{name}.jsonl"


def stylesheet(name: Literal["style", "controls"]) -> str:
    """CSS that pages share: `style` is every page's, `controls` that of pages with something to press."""
    return (_ROOT / "pages" / f"{name}.css").read_text(encoding="utf-8")


def general_prompts() -> Path:
    """Prompts about nothing in particular, one a line: the base's replies to them tell how far a tuned model went."""
    return _ROOT / "data" / "general_prompts.txt"
