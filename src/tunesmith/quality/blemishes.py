"""Rules that say what is wrong with one output, or None: each sure of itself, and cheap on clean text.

A rule looks for a few literal signs before it runs a pattern, so a kilobyte of clean text costs a few microseconds.
The functions take the row and its output without surrounding whitespace (never empty), and return a note.
"""

import re

from ftfy.badness import BADNESS_RE, is_bad

from tunesmith.quality.check import Row, quote
from tunesmith.quality.language import at_sight, is_plainly_english, language
from tunesmith.quality.signs import signs_in
from tunesmith.quality.task import CODE, parses

HTML = re.compile(
    r"</?(?:p|div|span|br|a|b|i|em|strong|ul|ol|li|table|tr|td|th|h[1-6]|img|font|script|style|body|html|head|input|"
    r"button|form|section|article|iframe|blockquote|hr|meta|link)(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,5});",
    re.IGNORECASE,
)
TEMPLATE_TOKENS = re.compile(
    r"<\|[a-z_]+\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|"
    r"^#{2,3} ?(?:Instruction|Response|Input|Human|Assistant):|^(?:Assistant|AI|Human|User|ASSISTANT|USER):",
    re.MULTILINE,
)

ESCAPES = re.compile(r"\\n(?=\\n|[ \-*•#A-Z0-9]|$)|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\\"|\\r\\n")
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\ufeff]")
CODE_SPAN = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|\$[^$\n]+\$", re.DOTALL)

_CANNOT = (
    r"i(?:'m| am) (?:not able|unable) to|"
    r"i (?:can't|cannot|can not|won't be able to|will not be able to|won't|must decline to)"
)
_HELP = (
    r"(?:assist|help(?: you)? with (?:that|this)|fulfil|comply|answer (?:that|this)|engage in|do (?:that|this)|"
    r"continue with (?:that|this)|"
    r"provide (?:that|this|you with (?:that|this)|any|information|assistance|advice|guidance))"
)
REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b|"
    r"\bi(?:'m| am) (?:just |only )?an? (?:ai\b|(?:large )?language model)|"
    r"\b(?:sorry|afraid|apologi[sz]e|unfortunately|regret)[,.]? (?:but |that )?"
    rf"(?:{_CANNOT}) {_HELP}|^(?:{_CANNOT}) {_HELP}|"
    r"\bbe (?:inappropriate|appropriate) for me to\b|"
    r"\bmy (?:knowledge cut-?off|training data (?:only )?(?:goes|ends|includes))|"
    r"\bas of my (?:last|latest) (?:knowledge )?(?:update|training)|"
    r"\bi (?:don't|do not) have (?:personal (?:opinions|feelings|experiences|beliefs)|"
    r"access to real-time|the ability to browse)|"
    r"\b(?:trained|developed|created) by (?:openai|anthropic)\b|"
    # The same of German, French, Spanish, Italian and Portuguese models.
    r"\bals (?:ein )?(?:ki|sprachmodell|ki-\w+)\b|\b(?:tut mir leid|leider)\b.{0,24}\bkann ich .{0,24}nicht "
    r"(?:weiter)?(?:helfen|beantworten|behilflich)|"
    r"\ben tant qu(?:e (?:grand )?mod\u00e8le de langage|'(?:ia|intelligence artificielle))\b|"
    r"\bd\u00e9sol\u00e9e?\b.{0,16}\bje ne (?:peux|suis) pas (?:en mesure de )?(?:vous |t'|y )?"
    r"(?:aider|r\u00e9pondre|assister)|"
    r"\bcomo (?:un )?modelo de (?:lenguaje|linguagem)\b|"
    r"\blo siento\b.{0,16}\bno puedo (?:ayudar|asistir|responder|cumplir)|"
    r"\bcome modello linguistico\b|\bmi dispiace\b.{0,16}\bnon posso (?:aiutar|rispondere|assister)|"
    r"\b(?:desculpe|sinto muito|lamento)\b.{0,16}\bn\u00e3o posso (?:ajudar|responder|atender)"
)
REFUSAL_CHARACTERS = 400
"""Refusals and boilerplate come first; a text that discusses them further down is not one."""

AROUND = 30
"""Characters shown before what is wrong in a long text."""

ECHO_CHARACTERS = 20
"""Shorter inputs occur in outputs by chance ("Hello!")."""


def is_refusal(output: str) -> bool:
    """Whether `output` is a refusal or opens with a model's talk about itself."""
    signs = signs_in(output).get("refusal")
    if signs is None or signs[0] >= REFUSAL_CHARACTERS:
        return False
    return REFUSAL.search(output[:REFUSAL_CHARACTERS].strip().lower().replace("\u2019", "'")) is not None


def is_mojibake(text: str) -> bool:
    """Whether `text` was decoded with the wrong encoding (ftfy's heuristic), or holds replacement characters."""
    return not text.isascii() and ("\ufffd" in text or is_bad(text))


def markup(row: Row, output: str) -> str | None:
    """Tags, entities, chat-template tokens, escapes or control characters in prose; code and JSON may hold them."""
    signs = signs_in(output)
    if not ("template" in signs or "control" in signs or "<" in output or "&" in output or "\\" in output):
        return None
    if output[0] in "{[" and parses(output):
        return None
    prose = CODE_SPAN.sub("", output)
    for pattern in (TEMPLATE_TOKENS, HTML, ESCAPES, CONTROL_CHARACTERS):
        if match := pattern.search(prose):
            # Bare code (no fence) is full of such characters; only what no language has counts there.
            return None if pattern in (HTML, ESCAPES) and CODE.search(prose) else f"{match.group()!r} in the output"
    return None


def mojibake(row: Row, output: str) -> str | None:
    """Wrongly decoded text in the output or the input."""
    if is_mojibake(output):
        return _around_mojibake(output)
    return f"in the input: {_around_mojibake(row.input)}" if is_mojibake(row.input) else None


def _around_mojibake(text: str) -> str:
    found = BADNESS_RE.search(text)
    start = max((found.start() if found else text.find("\ufffd")) - AROUND, 0)
    return f"{'…' if start else ''}{quote(text[start : start + 4 * AROUND])}"


def refusal(row: Row, output: str) -> str | None:
    """A refusal or a model's talk about itself."""
    return quote(output) if is_refusal(output) else None


def echo(row: Row, output: str) -> str | None:
    """The input or the system prompt, said again."""
    asked = row.input.strip()
    if len(asked) >= ECHO_CHARACTERS and output.startswith(asked):
        return f"begins with the input: {quote(output)}"
    for message in row.conversation.messages[:1]:
        if message.role == "system" and len(message.content) >= 2 * ECHO_CHARACTERS and message.content in output:
            return f"contains the system prompt: {quote(output)}"
    return None


def may_differ_in_language(asked: str, said: str) -> bool:
    """Whether an answer may be in another language than its question, as far as can be told without a model."""
    answered = "en" if is_plainly_english(said) else at_sight(said)
    if answered == "":
        return False
    question = "en" if is_plainly_english(asked) else at_sight(asked)
    return question != "" and (answered is None or answered != question)


def other_language(asked: str, said: str) -> str | None:
    """The languages of a question and its answer, where they are certain and differ."""
    answered = language(said)
    if answered is None or (question := language(asked)) is None or answered == question:
        return None
    return f"asked in {question}, answered in {answered}"
