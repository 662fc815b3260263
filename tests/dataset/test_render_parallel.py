"""Rendering on several cores gives what one gives, in its order, and stops at the same row."""

import sys

import msgspec
import pytest

from tunesmith.assets import sample
from tunesmith.dataset.conversation import Message
from tunesmith.dataset.read import load
from tunesmith.dataset.render import BATCH_ROWS, Renderer
from tunesmith.dataset.render_parallel import PARALLEL_FROM, render_rows
from tunesmith.errors import DataError
from tunesmith.models.load import load_tokenizer


@pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")
def test_many_processes_render_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_THREADS", "3")
    rows = [*load(sample("tickets")), *load(sample("style"))]
    rows = (rows * (1 + PARALLEL_FROM // len(rows)))[: PARALLEL_FROM + 7]
    tokenizer = load_tokenizer("embedded")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no bad words') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{{ eos_token or '' }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    renderer = Renderer(tokenizer)
    one, many = list(renderer.render_many(rows, max_length=40)), list(render_rows(renderer, rows, max_length=40))
    assert [(row.tokens.tolist(), row.supervised.tolist(), row.truncated, row.supervised_lost) for row in one] == [
        (row.tokens.tolist(), row.supervised.tolist(), row.truncated, row.supervised_lost) for row in many
    ]
    for place in (BATCH_ROWS + 5, 3 * BATCH_ROWS):  # in different processes
        rows[place] = msgspec.structs.replace(rows[place], messages=(Message("user", "bad"), *rows[place].messages[1:]))
    refused = []
    for render in (renderer.render_many, lambda rows, max_length: render_rows(renderer, rows, max_length=max_length)):
        with pytest.raises(DataError, match="no bad words") as caught:
            list(render(rows, max_length=40))
        refused.append(str(caught.value))
    assert refused[0] == refused[1]
