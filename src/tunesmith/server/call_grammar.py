"""The grammar of a reply that must call tools: the template's own format around JSON of the tools' schemas."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tunesmith.dataset.call_format import CallFormat
from tunesmith.server.guide import json_rule

MOST_CALLS = 16
"""In one reply: without a bound a model may go on forever."""

SPELLING = {"item_separator": ", ", "key_separator": ": "}
"""Of arguments: as `tojson` writes them in chat templates, so that a model says them as it has read them."""

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""The schema of a tool that names none, as OpenAI has it."""


def call_grammar(
    form: CallFormat, tools: Mapping[str, Mapping[str, Any]], marks: Mapping[str, int], *, several: bool
) -> str:
    """A grammar for llguidance: one call of one of `tools` (name → schema), or `several`.

    `marks` are the special tokens of the tokenizer that `form` may hold, by their text.
    """
    before, between, after = (_literal(text, marks) for text in (form.before.lstrip(), form.between, form.after))
    more = ""
    if several and form.again is not None:
        more = f" ({_literal(form.again, marks)} call){{0,{MOST_CALLS - 1}}}"
    lines = [f"start: {before} call{more} {after}", "call: " + " | ".join(f"call_{n}" for n in range(len(tools)))]
    for number, (name, schema) in enumerate(tools.items()):
        lines.append(f"call_{number}: {json.dumps(name)} {between} arguments_{number}")
        lines.append(f"arguments_{number}: {json_rule(schema, **SPELLING)}")
    return "\n".join(lines)


def _literal(text: str, marks: Mapping[str, int]) -> str:
    """`text` in the grammar's notation, where a special token goes by its number."""
    parts = re.split(f"({'|'.join(map(re.escape, marks))})", text) if marks else [text]
    return " ".join(
        f"<[{marks[part]}]>" if part in marks else json.dumps(part, ensure_ascii=False) for part in parts if part
    )
