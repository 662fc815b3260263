"""Names and places, which no pattern can tell: Presidio's named-entity recognizer over a spaCy pipeline.

It reads about a hundred rows a second, a thousandth of the rules' speed. Redaction uses an installed pipeline of itself
because it must not miss a name, the check only the one it is told. Nothing is ever fetched over the network.
"""

import importlib.util
from pathlib import Path
from typing import Any

from tunesmith.errors import MissingDependencyError, ModelError
from tunesmith.quality.pii.scan import PiiSpan, find_pii
from tunesmith.quality.redact import PLACEHOLDER, Finder

MODELS = ("en_core_web_trf", "en_core_web_lg", "en_core_web_md", "en_core_web_sm", "xx_ent_wiki_sm")
"""spaCy models with a named-entity recognizer, the best first."""

ENTITIES = ("PERSON", "LOCATION")


def finder(model: str | None) -> Finder:
    """The rules, and behind them names and places as the spaCy pipeline `model` (folder or package) recognizes them.

    Raises MissingDependencyError without Presidio or spaCy, ModelError when `model` is no pipeline that recognizes
    entities. Without a `model`, the rules alone.
    """
    if model is None:
        return find_pii
    find_names = name_finder(_load(model))

    def find(text: str) -> tuple[PiiSpan, ...]:
        return find_pii(text) or find_names(text)

    return find


def installed_model() -> str | None:
    """The best installed spaCy model that recognizes names; None without one or without Presidio."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        return None
    return next((name for name in MODELS if importlib.util.find_spec(name) is not None), None)


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


def _load(model: str) -> Any:
    if importlib.util.find_spec("presidio_analyzer") is None or importlib.util.find_spec("spacy") is None:
        raise MissingDependencyError("--names: needs Presidio and spaCy: pip install 'tunesmith[pii]'")
    import spacy

    if not Path(model).is_dir() and not spacy.util.is_package(model):
        raise ModelError(
            f"--names {model}: neither a folder nor an installed spaCy model; "
            "for English: python -m spacy download en_core_web_sm"
        )
    try:
        pipeline = spacy.load(model)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"--names {model}: no spaCy pipeline ({str(error).splitlines()[0]})") from error
    if not any("doc.ents" in pipeline.get_pipe_meta(name).assigns for name in pipeline.pipe_names):
        raise ModelError(f"--names {model}: this spaCy pipeline recognizes no entities; choose one with `ner`")
    return pipeline
