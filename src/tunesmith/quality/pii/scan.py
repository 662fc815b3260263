"""Finding personal data in a text: cheap tests first, so that clean text costs microseconds.

Most of a data set holds none, so each rule runs only where something rare and cheap to see (an `@`, a key's prefix,
six digits close together) says that it could match. Everything a rule finds was validated.
"""

import functools
import itertools
import re
import string
from collections.abc import Iterator
from typing import TypeAlias

from ahocorasick_rs import AhoCorasick, BytesAhoCorasick, Implementation
from msgspec import Struct

from tunesmith.quality.pii import keys, rules
from tunesmith.quality.pii.rule import Rule

DENSE_DIGITS, DENSE_GAP = 6, 3
"""A number is so many digits with at most so many other characters between two of them."""

DIGIT_RUN = re.compile(r"[0-9]+")
WORDS_BEFORE, LETTERS_BEFORE, REST_AFTER = 64, 16, 32
"""How far around dense digits a number reaches: the words that name it, its own letters, and what is left of it."""

DIGITS = bytes(ord("0") if 48 <= byte <= 57 else ord(" ") for byte in range(256))
SHAPES = bytes(
    ord("0") if 48 <= byte <= 57 else ord("A") if 65 <= byte <= 90 else ord(" ") if byte in b" ./-" else ord("x")
    for byte in range(256)
)
KEY_LIKE = bytes(
    ord("k")
    if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "_-")
    else byte
    if chr(byte) == "."
    else ord(" ")
    for byte in range(256)
)
KEY_RUN = b"k" * 16
"""Every kind of key has a run of this many letters, digits, hyphens and underscores; few texts have one."""
DISCORD_SHAPE = b"k" * 24 + b".kkkkkk." + b"k" * 27

NO_SIGNS = bytes(set(range(256)) - set(b"0123456789@_:-"))
NO_DIGITS = b"@_:-"
FEWEST_DIGITS = 3
"""Without any of these signs a text holds nothing that a rule finds; a date has three digits, other numbers more."""

HEXADECIMAL = bytes(
    ord("h") if chr(byte) in string.hexdigits else byte if chr(byte) in ".:" else ord(" ") for byte in range(256)
)
DOTTED_MAC, IPV6 = b"hhhh.hhhh.hhhh", b"hhh:"
"""The shape of the one, and what the other begins with."""


PRECEDENCE = {rule: place for place, rule in enumerate(rules.NUMBERS)}
SIGNED_RULES = [(sign, rule) for rule in rules.NUMBERS for sign in rule.signs]


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


Runs: TypeAlias = list[tuple[int, int]]


def _candidates(text: str) -> Iterator[PiiSpan]:
    """Every match of every rule whose cheap test passes, in order of precedence."""
    encoded = text.encode("utf-8", "surrogatepass")
    signs = encoded.translate(None, NO_SIGNS)  # leaving out costs half a microsecond a kilobyte
    if not signs:
        return
    digits = signs.translate(None, NO_DIGITS)
    colons, hyphens = signs.count(b":"), signs.count(b"-")
    if hyphens >= 5 and "PRIVATE KEY" in text:
        yield from _apply(keys.PRIVATE_KEY, text)
    if (digits or keys.LETTERS_ONLY in text) and KEY_RUN in (told := encoded.translate(KEY_LIKE)):
        yield from _keys(text)
        if DISCORD_SHAPE in told:
            yield from _apply(keys.DISCORD_TOKEN, text)
    if b"@" in signs:
        yield from _emails(text)
    if colons >= 5 or hyphens >= 5:
        yield from _apply(rules.MAC_ADDRESSES[0], text)  # its digits may all be letters
    if not digits:
        return
    hexadecimal = encoded.translate(HEXADECIMAL)
    if colons >= 2 and IPV6 in hexadecimal:
        yield from _apply(rules.IP_ADDRESSES[1], text)
    if DOTTED_MAC in hexadecimal:
        yield from _apply(rules.MAC_ADDRESSES[1], text)
    if len(digits) < FEWEST_DIGITS and text.isascii():  # other scripts' digits count in dates
        return
    runs = _digit_runs(text, encoded)
    if _has_dotted_quad(text, runs):
        yield from _apply(rules.IP_ADDRESSES[0], text)
    if _may_tell_birth(text, runs):
        yield from _apply(rules.BIRTH_DATE, text)
    for start, end in _number_zones(text, runs):
        yield from _numbers(text, start, end)


def _digit_runs(text: str, encoded: bytes) -> Runs:
    """Where digits stand together, in order: all that follows is made of them."""
    if not text.isascii():
        return [match.span() for match in DIGIT_RUN.finditer(text)]
    # Translated and searched for one byte, a text without digits costs a tenth of what the pattern takes.
    told = encoded.translate(DIGITS)
    runs = []
    start = told.find(b"0")
    while start >= 0:
        end = told.find(b" ", start)
        end = len(told) if end < 0 else end
        runs.append((start, end))
        start = told.find(b"0", end)
    return runs


def _has_dotted_quad(text: str, runs: Runs) -> bool:
    """Whether four runs follow each other with a dot between."""
    dots = 0
    for (_, end), (start, _) in itertools.pairwise(runs):
        dots = dots + 1 if start == end + 1 and text[end] == "." else 0
        if dots == 3:
            return True
    return False


def _may_tell_birth(text: str, runs: Runs) -> bool:
    """Whether there is a date, and before its digits a word of birth."""
    if not text.isascii():  # other scripts' digits count in dates, and have no runs
        return rules.BIRTH_DATE in _named_rules(text)
    return _has_date(runs) and rules.BIRTH_DATE in _named_rules(text[max(runs[0][0] - WORDS_BEFORE, 0) : runs[-1][1]])


def _has_date(runs: Runs) -> bool:
    """Whether there is a year, or three runs with one character between: every form of a date has one of both."""
    close = 0
    previous = -9
    for start, end in runs:
        close = close + 1 if start == previous + 1 else 0
        if close == 2 or end - start == 4:
            return True
        previous = end
    return False


def _keys(text: str) -> Iterator[PiiSpan]:
    automaton, forms = _key_automaton()
    lower = text.lower()
    if not lower.isascii():
        lower = lower.encode("utf-8", "replace").decode()  # no lone surrogates
    hinted = {forms[form] for form, _, _ in automaton.find_matches_as_indexes(lower, overlapping=True)}
    for prefix, rule in keys.PREFIXED_KEYS:
        if prefix in hinted and prefix in text:
            yield from _apply(rule, text)
    if ASSIGNED in hinted:
        yield from _apply(keys.ASSIGNED_KEY, text)


ASSIGNED = "="


@functools.cache
def _key_automaton() -> tuple[AhoCorasick, tuple[str, ...]]:
    """What finds the prefixes of keys and the words before them in lower case, and which each stands for."""
    forms = {prefix.lower(): prefix for prefix, _ in keys.PREFIXED_KEYS}
    forms |= dict.fromkeys(keys.ASSIGNED_KEY.words, ASSIGNED)
    return AhoCorasick(list(forms), implementation=Implementation.DFA), tuple(forms.values())


def _number_zones(text: str, runs: Runs) -> Runs:
    """The stretches around dense digits, and around four digits before a capital, in order, merged where they touch."""
    zones: Runs = []

    def add(first: int, last: int) -> None:
        start, end = max(first - LETTERS_BEFORE, 0), min(last + REST_AFTER, len(text))
        if zones and start <= zones[-1][1]:
            zones[-1] = (zones[-1][0], max(end, zones[-1][1]))
        else:
            zones.append((start, end))

    cluster_start, cluster_end, digits = 0, -DENSE_GAP - 1, 0
    for start, end in runs:
        if start - cluster_end > DENSE_GAP:
            cluster_start, digits = start, 0
        cluster_end = end
        digits += end - start
        if digits >= DENSE_DIGITS:
            add(cluster_start, end)
        elif end - start >= 4 and "A" <= text[end : end + 1] <= "Z":
            add(end - 4, end + 1)
    return zones


def _numbers(text: str, start: int, end: int) -> Iterator[PiiSpan]:
    zone = text[start:end]
    shape = zone.encode("ascii", "replace").translate(SHAPES)
    digits = shape.count(b"0")
    words_start = max(start - WORDS_BEFORE, 0)
    likely = _named_rules(text[words_start:end]) | _shaped_rules(shape)
    likely.update([rule for sign, rule in SIGNED_RULES if sign in zone])
    for rule in sorted(likely & PRECEDENCE.keys(), key=PRECEDENCE.__getitem__):
        if digits < rule.digits:
            continue
        begin = words_start if rule.words else start
        if rule.pattern.search(text, begin, end) is not None:
            yield from _apply(rule, text, begin, end)


def _named_rules(text: str) -> set[Rule]:
    """The rules one of whose words is in `text`."""
    automaton, named = _word_automaton()
    words = text.lower()
    if not words.isascii():
        words = words.encode("utf-8", "replace").decode()  # no lone surrogates
    return {named[word] for word, _, _ in automaton.find_matches_as_indexes(words, overlapping=True)}


def _shaped_rules(shape: bytes) -> set[Rule]:
    """The rules one of whose shapes is in `shape`."""
    automaton, shaped = _shape_automaton()
    return {shaped[place] for place, _, _ in automaton.find_matches_as_indexes(shape, overlapping=True)}


@functools.cache
def _word_automaton() -> tuple[AhoCorasick, tuple[Rule, ...]]:
    named = [(word, rule) for rule in (rules.BIRTH_DATE, *rules.NUMBERS) for word in rule.words]
    automaton = AhoCorasick([word for word, _ in named], implementation=Implementation.DFA)
    return automaton, tuple(rule for _, rule in named)


@functools.cache
def _shape_automaton() -> tuple[BytesAhoCorasick, tuple[Rule, ...]]:
    shaped = [(shape, rule) for rule in rules.NUMBERS for shape in rule.shapes]
    automaton = BytesAhoCorasick([shape for shape, _ in shaped], implementation=Implementation.DFA)
    return automaton, tuple(rule for _, rule in shaped)


def _apply(rule: Rule, text: str, start: int = 0, end: int | None = None) -> Iterator[PiiSpan]:
    group = rule.group
    for match in rule.pattern.finditer(text, start, len(text) if end is None else end):
        value = match[group]
        begin = match.start(group)
        if not rule.personal and _is_reference(rule, text, begin):
            continue
        while rule.valid is not None and value and not rule.valid(value):
            value = value[: _last_separator(value)] if rule.shorten else ""
        if value:
            end_of_value = begin + len(value)
            more = rule.tail.match(text, end_of_value) if rule.tail else None
            yield PiiSpan(rule.kind, begin, more.end() if more else end_of_value)


def _last_separator(value: str) -> int:
    trimmed = value.rstrip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return len(trimmed.rstrip(" .-/()+"))


def _is_reference(rule: Rule, text: str, start: int) -> bool:
    match = rules.REFERENCE.match(text[max(start - rules.REFERENCE_REACH, 0) : start][::-1])
    return match is not None and not (rule.is_id and match["id"])


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
