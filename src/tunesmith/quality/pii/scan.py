"""Finding personal data in a text: cheap tests first, so that clean text costs microseconds.

Most of a data set holds none, so each rule runs only where something rare and cheap to see (an `@`, a key's prefix,
six digits close together) says that it could match. Everything a rule finds was validated.
"""

import functools
import re
from collections.abc import Iterator

from ahocorasick_rs import AhoCorasick, Implementation
from msgspec import Struct

from tunesmith.quality.pii import rules
from tunesmith.quality.pii.rules import Rule

DENSE_DIGITS = re.compile(r"[0-9]" + r"[^0-9]{0,3}[0-9]" * 5)
# Repetition is written out because the engine then jumps from digit to digit, three times as fast.
PAN_DIGITS = re.compile(r"[0-9]{4}[A-Z]")
WORDS_BEFORE, LETTERS_BEFORE, REST_AFTER = 64, 16, 32
"""How far around dense digits a number reaches: the words that name it, its own letters, and what is left of it."""

NOT_DIGITS = bytes(byte for byte in range(256) if not 48 <= byte <= 57)
KEY_LIKE = bytes(
    ord("k") if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "_-") else ord(" ") for byte in range(256)
)
KEY_RUN = b"k" * 16
"""Every kind of key has a run of this many letters, digits, hyphens and underscores; few texts have one."""


class PiiSpan(Struct, frozen=True):
    """Personal data of a `kind` at `text[start:end]`."""

    kind: str
    start: int
    end: int


def find_pii(text: str) -> tuple[PiiSpan, ...]:
    """All personal data in `text` that a pattern and its validator recognize, in order, without overlaps.

    Names and addresses need a language model: see `names`.
    """
    claimed: list[PiiSpan] = []
    for span in _candidates(text):
        if all(span.end <= other.start or other.end <= span.start for other in claimed):
            claimed.append(span)
    return tuple(sorted(claimed, key=lambda span: span.start)) if claimed else ()


def _candidates(text: str) -> Iterator[PiiSpan]:
    """Every match of every rule whose cheap test passes, in order of precedence."""
    encoded = text.encode("utf-8", "surrogatepass")
    digits = len(encoded.translate(None, NOT_DIGITS))
    if "PRIVATE KEY" in text:
        yield from _apply(rules.PRIVATE_KEY, text)
    if digits and KEY_RUN in encoded.translate(KEY_LIKE):
        yield from _keys(text)
    if "@" in text:
        yield from _emails(text)
    colons = text.count(":")
    if colons >= 5 or text.count("-") >= 5:
        yield from _apply(rules.MAC_ADDRESS, text)  # its digits may all be letters
    if digits < rules.FEWEST_DIGITS:
        return
    if colons >= 2:
        yield from _apply(rules.IP_ADDRESSES[1], text)
    if text.count(".") >= 3:
        yield from _apply(rules.IP_ADDRESSES[0], text)
    lower = text.lower()
    if any(word in lower for word in rules.BIRTH_DATE.words):
        yield from _apply(rules.BIRTH_DATE, text)
    for start, end in _number_zones(text):
        yield from _numbers(text, start, end)


def _keys(text: str) -> Iterator[PiiSpan]:
    for prefix, rule in rules.PREFIXED_KEYS:
        if prefix in text:
            yield from _apply(rule, text)
    lower = text.lower()
    if any(word in lower for word in rules.ASSIGNED_KEY.words):
        yield from _apply(rules.ASSIGNED_KEY, text)


def _number_zones(text: str) -> list[tuple[int, int]]:
    """The stretches around dense digits, in order, merged where they touch."""
    places = [match.span() for pattern in (DENSE_DIGITS, PAN_DIGITS) for match in pattern.finditer(text)]
    zones: list[tuple[int, int]] = []
    for place in sorted(places):
        start, end = max(place[0] - LETTERS_BEFORE, 0), min(place[1] + REST_AFTER, len(text))
        if zones and start <= zones[-1][1]:
            zones[-1] = (zones[-1][0], max(end, zones[-1][1]))
        else:
            zones.append((start, end))
    return zones


def _numbers(text: str, start: int, end: int) -> Iterator[PiiSpan]:
    digits = len(text[start:end].encode("utf-8", "surrogatepass").translate(None, NOT_DIGITS))
    words_start = max(start - WORDS_BEFORE, 0)
    named = _named_rules(text[words_start:end].lower())
    for rule in rules.NUMBERS:
        if digits < rule.digits or (rule.words and rule not in named):
            continue
        begin = words_start if rule.words else start
        if rule.pattern.search(text, begin, end) is not None:
            yield from _apply(rule, text, begin, end)


def _named_rules(words: str) -> set[Rule]:
    """The rules for numbers one of whose words is in `words`."""
    automaton, named = _word_automaton()
    if not words.isascii():
        words = words.encode("utf-8", "replace").decode()  # no lone surrogates
    return {named[word] for word, _, _ in automaton.find_matches_as_indexes(words, overlapping=True)}


@functools.cache
def _word_automaton() -> tuple[AhoCorasick, tuple[Rule, ...]]:
    named = [(word, rule) for rule in rules.NUMBERS for word in rule.words]
    automaton = AhoCorasick([word for word, _ in named], implementation=Implementation.DFA)
    return automaton, tuple(rule for _, rule in named)


def _apply(rule: Rule, text: str, start: int = 0, end: int | None = None) -> Iterator[PiiSpan]:
    group = rule.group
    for match in rule.pattern.finditer(text, start, len(text) if end is None else end):
        value = match[group]
        begin = match.start(group)
        if not rule.personal and _is_reference(text, begin):
            continue
        while rule.valid is not None and value and not rule.valid(value):
            value = value[: _last_separator(value)] if rule.shorten else ""
        if value:
            yield PiiSpan(rule.kind, begin, begin + len(value))


def _last_separator(value: str) -> int:
    trimmed = value.rstrip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return len(trimmed.rstrip(" .-/()"))


def _is_reference(text: str, start: int) -> bool:
    return rules.REFERENCE.search(text, max(start - rules.REFERENCE_REACH, 0), start) is not None


def _emails(text: str) -> Iterator[PiiSpan]:
    # From each @ outwards: a pattern tried at every character would be the slowest of all.
    at = text.find("@")
    while at >= 0:
        local = rules.EMAIL_LOCAL.search(text[max(at - 64, 0) : at])
        domain = rules.EMAIL_DOMAIN.match(text, at + 1)
        if local and domain and domain["ending"].lower() not in rules.NOT_DOMAINS:
            name = local[0].lstrip(".'`*{|/=?^~&!#$%-")
            if name:
                yield PiiSpan("EMAIL", at - len(name), domain.end())
        at = text.find("@", at + 1)
