"""Names and places, which no pattern can tell: Presidio's named-entity recognizer over a spaCy model.

It reads about a hundred rows a second, a thousandth of the rules' speed. Redaction uses it wherever both Presidio (the
extra `pii`) and a spaCy model are installed, because it must not miss a name; the check only when asked.
"""

import importlib.util
from typing import Any

from tunesmith.errors import MissingDependencyError
from tunesmith.quality.pii.scan import PiiSpan, find_pii
from tunesmith.quality.redact import PLACEHOLDER, Finder

MODELS = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm", "xx_ent_wiki_sm")
"""spaCy models with a named-entity recognizer, the best first."""

ENTITIES = ("PERSON", "LOCATION")


def installed_name_finder() -> Finder | None:
    """A finder of names and places with the best installed spaCy model; None without one or without Presidio."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        return None
    model = next((name for name in MODELS if importlib.util.find_spec(name) is not None), None)
    if model is None:
        return None
    import spacy

    return name_finder(spacy.load(model))


def finder(*, required: bool) -> Finder:
    """The rules, and behind them the recognizer of names where one is installed.

    Raises MissingDependencyError when there is none and it is `required`.
    """
    find_names = installed_name_finder()
    if find_names is None:
        if required:
            raise MissingDependencyError(
                "--names: needs Presidio and a spaCy model: pip install 'tunesmith[pii]', then "
                "python -m spacy download en_core_web_sm"
            )
        return find_pii

    def find(text: str) -> tuple[PiiSpan, ...]:
        return find_pii(text) or find_names(text)

    return find


def name_finder(pipeline: Any) -> Finder:
    """A finder of names and places with a loaded spaCy `pipeline` that recognizes entities."""
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": pipeline.meta["name"]}])
    engine.__dict__["nlp"] = {"en": pipeline}  # instead of engine.load(), which would download a model
    recognizer = SpacyRecognizer(supported_language="en")

    def find(text: str) -> tuple[PiiSpan, ...]:
        placeholders = [match.span() for match in PLACEHOLDER.finditer(text)]
        results = recognizer.analyze(text, list(ENTITIES), engine.process_text(text, "en"))
        spans = (PiiSpan(result.entity_type, result.start, result.end) for result in results)
        return tuple(
            span
            for span in sorted(spans, key=lambda span: span.start)
            if all(span.end <= start or end <= span.start for start, end in placeholders)
        )

    return find
