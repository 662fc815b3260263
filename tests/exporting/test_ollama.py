"""The Modelfile says in Ollama's terms what the chat template says in Jinja."""

import re

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from tunesmith.errors import ModelError
from tunesmith.exporting.ollama import find_turns, go_template, modelfile
from tunesmith.models.load import EMBEDDED, load_tokenizer

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'system' %}{% set ns = m.content %}{% elif m.role == 'user' %}"
    "[INST] {% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is {{ it }} red?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Sure?"},
]


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({"?": 0, "<s>": 1}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


def run_go_template(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template makes of the few constructs that `go_template` writes."""
    start, body, reply = re.fullmatch(
        r"(.*?)(?:\{\{ range \.Messages \}\})(.*)\{\{ end \}\}\{\{ end \}\}(.*)", template, re.S
    ).groups()
    branches = re.findall(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ else if |\Z)', body, re.S)
    by_role = dict(branches)
    texts = [by_role[m["role"]].replace('{{ "{{" }}', "\0").replace("{{ .Content }}", m["content"]) for m in messages]
    return (start + "".join(texts) + reply.replace('{{ "{{" }}', "\0")).replace("\0", "{{")


@pytest.mark.parametrize("tokenizer", [load_tokenizer(EMBEDDED), tokenizer_with(LLAMA3)], ids=["ChatML", "Llama 3"])
def test_the_derived_template_writes_what_the_chat_template_writes(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = find_turns(tokenizer)
    assert turns is not None
    expected = tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    assert turns.render(CONVERSATION) == expected
    assert run_go_template(go_template(turns), CONVERSATION) == expected


def test_a_template_that_is_no_sequence_of_turns_gets_none_rather_than_a_wrong_one() -> None:
    assert find_turns(tokenizer_with(MISTRAL)) is None
    text = modelfile("x.gguf", None, stops=["</s>"], system=None)
    assert "\nTEMPLATE" not in text
    assert "# No TEMPLATE" in text


def test_the_modelfile_names_weights_stops_and_the_shared_system_prompt() -> None:
    turns = find_turns(load_tokenizer(EMBEDDED))
    text = modelfile("t-F16.gguf", turns, stops=["<|im_end|>"], system='Say "yes".\nOr no.')
    assert text.startswith(
        'FROM ./t-F16.gguf\nTEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n'
    )
    assert text.endswith('PARAMETER stop "<|im_end|>"\nSYSTEM """Say "yes".\nOr no."""\n')


def test_text_that_a_modelfile_cannot_hold_is_refused() -> None:
    with pytest.raises(ModelError, match="three double quotes"):
        modelfile("x.gguf", None, stops=[], system='Use """ docstrings.')
