"""A folder that `ollama create` takes: the GGUF file and a Modelfile with template, stop words and system prompt.

Ollama templates are Go's, chat templates are Jinja: they are not translated but derived. The chat template is asked
to render a conversation of marked turns; what it puts around each turn is read off and must then reproduce its
rendering of other conversations exactly. A template that is no plain sequence of turns gets no TEMPLATE, and Ollama
falls back to the one it knows for the template inside the GGUF file. https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith import storage
from tunesmith.dataset.system_prompt import shared_system_prompt
from tunesmith.errors import ModelError
from tunesmith.exporting.gguf import OutType, must_have_gguf, write_gguf
from tunesmith.exporting.merge import must_be_free
from tunesmith.models.load import load_tokenizer
from tunesmith.run_folder import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLES = ("system", "user", "assistant")
_CONVERSATIONS = (("user",), ("user", "assistant", "user"), ("system", "user"), ("system", "user", "assistant", "user"))


@dataclass(frozen=True)
class Turns:
    """What a chat template puts at the start, before and after each role's text, and before the reply asked for.

    `start` is empty where the tokenizer begins every text with its token itself, as Ollama then does too.
    """

    start: str
    before: dict[str, str]
    after: dict[str, str]
    reply: str

    def render(self, turns: list[dict[str, str]]) -> str:
        """`turns` and the start of the assistant's reply, as the chat template would write them."""
        parts = [self.before[turn["role"]] + turn["content"] + self.after[turn["role"]] for turn in turns]
        return self.start + "".join(parts) + self.reply


def write_ollama(run: RunFolder, output: Path | None = None, *, outtype: OutType = "f16") -> Path:
    """Write GGUF file, Modelfile and card to the folder `output` (default: `RUN/ollama`), and return it.

    Raises what `write_gguf` raises, and SpecError when the output holds something already.
    """
    must_have_gguf()
    output = run.root / "ollama" if output is None else output
    must_be_free(output)
    tokenizer = load_tokenizer(run.load_spec().model)
    turns, stops, system = find_turns(tokenizer), _stops(tokenizer), shared_system_prompt(run)
    with storage.atomic_folder(output) as folder:
        weights = write_gguf(run, folder, outtype=outtype)
        text = modelfile(weights.name, turns, stops=stops, system=system)
        (folder / "Modelfile").write_text(text, encoding="utf-8")
    return output


def modelfile(weights: str, turns: Turns | None, *, stops: list[str], system: str | None) -> str:
    """The Modelfile's text; `weights` is the GGUF file beside it."""
    lines = [f"FROM ./{weights}"]
    if turns is None:
        lines.append("# No TEMPLATE: the chat template is no plain sequence of turns, so Ollama picks its own for it.")
    else:
        lines.append(f"TEMPLATE {_quoted(go_template(turns))}")
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    if system is not None:
        lines.append(f"SYSTEM {_quoted(system)}")
    return "\n".join(lines) + "\n"


def go_template(turns: Turns) -> str:
    """The same turns as a template of Go's text/template over Ollama's `.Messages`."""
    branches: list[str] = []
    for role in _ROLES:
        if role in turns.before:
            keyword = "if" if not branches else "else if"
            body = _literal(turns.before[role]) + "{{ .Content }}" + _literal(turns.after[role])
            branches.append(f'{{{{ {keyword} eq .Role "{role}" }}}}{body}')
    return (
        _literal(turns.start)
        + "{{ range .Messages }}"
        + "".join(branches)
        + "{{ end }}{{ end }}"
        + _literal(turns.reply)
    )


def find_turns(tokenizer: "PreTrainedTokenizerBase") -> Turns | None:
    """The chat template as plain turns; None where it does not put the same around every turn of a role."""
    if not tokenizer.chat_template:
        return None
    marked = [{"role": role, "content": f"<<{role} text>>"} for role in _ROLES]
    whole, closed = _render(tokenizer, marked), _render(tokenizer, marked, reply=False)
    alone = _render(tokenizer, marked[1:2])
    if whole is None or closed is None or alone is None or not whole.startswith(closed):
        return None
    reply = whole.removeprefix(closed)
    pieces = _between(closed, [turn["content"] for turn in marked])
    first = _between(alone.removesuffix(reply), [marked[1]["content"]])
    if pieces is None or first is None:
        return None
    before_system, system_user, user_assistant, after_assistant = pieces
    before_user, after_user = first
    turns = Turns(
        start=_start(tokenizer, marked),
        before={"system": before_system, "user": before_user, "assistant": user_assistant.removeprefix(after_user)},
        after={"system": system_user.removesuffix(before_user), "user": after_user, "assistant": after_assistant},
        reply=reply,
    )
    return turns if _reproduces(tokenizer, turns) else None


def _reproduces(tokenizer: "PreTrainedTokenizerBase", turns: Turns) -> bool:
    for roles in _CONVERSATIONS:
        conversation = [{"role": role, "content": f"{role} says {index}."} for index, role in enumerate(roles)]
        rendered = _render(tokenizer, conversation)
        if rendered is None or turns.render(conversation) != turns.start + rendered:
            return False
    return True


def _render(tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]], *, reply: bool = True) -> str | None:
    """The chat template's text up to the `reply`, without the token that begins a text; None where it refuses."""
    from jinja2 import TemplateError

    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply))
    except (TemplateError, TypeError, ValueError, KeyError):
        return None
    return text.removeprefix(str(tokenizer.bos_token)) if tokenizer.bos_token else text


def _start(tokenizer: "PreTrainedTokenizerBase", turns: list[dict[str, str]]) -> str:
    if tokenizer.bos_token is None or tokenizer.encode("?")[:1] == [tokenizer.bos_token_id]:
        return ""
    begins = str(tokenizer.apply_chat_template(turns, tokenize=False)).startswith(tokenizer.bos_token)
    return str(tokenizer.bos_token) if begins else ""


def _between(text: str, marks: list[str]) -> list[str] | None:
    """What stands before, between and after `marks`, or None when one is missing or changed."""
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            return None
        pieces.append(before)
    return [*pieces, text]


def _stops(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The texts of the tokens that end a reply."""
    from tunesmith.evaluation.generate import turn_end

    ends = dict.fromkeys(token for token in (turn_end(tokenizer), tokenizer.eos_token_id) if token is not None)
    return [str(tokenizer.convert_ids_to_tokens(token)) for token in ends]


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    if '"""' in text:
        raise ModelError(
            "a Modelfile cannot hold three double quotes in a row, as the system prompt or the template has"
        )
    return f'"""{text}"""'
