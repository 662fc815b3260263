"""What a person reads when a run spec is wrong: file, line, key, what was found, and the nearest key that there is."""

import difflib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel


def describe(
    problem: Mapping[str, Any],
    name: str,
    document: yaml.Node | None,
    spec: type[BaseModel],
    objectives: Mapping[str, type[BaseModel]],
) -> str:
    """The sentence for one of pydantic's problems with the file `name` as a `spec`, whose sections `objectives` are a
    union by kind; `document`, the composed YAML, lets it name the line."""
    # pydantic puts the branch of a union into the location ("list[str]", "grpo"); people know only the keys.
    branches = [part for part in problem["loc"] if isinstance(part, int) or (part.isidentifier() and part != "str")]
    known = _known_keys(branches[:-1], spec, objectives)
    unions = ("objective", "policy")  # by kind
    keys = [part for before, part in pairwise(("", *branches)) if before not in unions or part not in objectives]
    where = _position(document, keys)
    place = f"{name}:{where}" if where else name
    # Which item of a list it is, the position and the value say; whoever wrote one name has written no list.
    key = ".".join(part for part in keys if isinstance(part, str))
    prefix = f"{place}: {key}" if key else place
    match problem["type"]:
        case "extra_forbidden":
            return f"{prefix}: unknown key{_suggestion(keys[-1], known)}"
        case "missing":
            return f"{prefix}: required, and missing"
        case "union_tag_not_found":
            return f"{prefix}.kind: one of {', '.join(objectives)} is required"
        case "union_tag_invalid":
            return f"{prefix}.kind: found {problem['ctx']['tag']!r}; expected one of {problem['ctx']['expected_tags']}"
        case "value_error":
            return f"{prefix}: {problem['ctx']['error']}"
        case _:
            message = problem["msg"].removeprefix("Input should be ")
            return f"{prefix}: found {problem['input']!r}; expected {message}"


def describe_yaml(error: yaml.YAMLError, path: Path) -> str:
    """The sentence for a file that is no YAML."""
    mark = getattr(error, "problem_mark", None)
    where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None) or "cannot be parsed"
    return f"{path}{where}: not valid YAML: {problem}"


def _suggestion(key: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known keys: {', '.join(known)}" if known else ""


def _known_keys(sections: list[Any], spec: type[BaseModel], objectives: Mapping[str, type[BaseModel]]) -> list[str]:
    model: Any = spec
    for section in sections:
        if section in objectives:
            model = objectives[section]
            continue
        annotation = model.model_fields[section].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _position(node: yaml.Node | None, keys: list[Any]) -> str:
    """`line:column` of the deepest key that exists in the document, or an empty string."""
    mark = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                break
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            mark = node.start_mark
        else:
            break
    return f"{mark.line + 1}:{mark.column + 1}" if mark else ""
