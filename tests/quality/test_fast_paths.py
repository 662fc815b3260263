"""The cheap tests in front of the rules change what a check costs, never what it finds."""

import random
import re
import zlib

import numpy as np
import pytest
from benchmarks.planted_rows import DECOYS, PERSONAL, Writer
from hypothesis import given
from hypothesis import strategies as st
from tests.quality.test_pii import FOUND

from tunesmith.dataset.conversation import Conversation, Message, Role
from tunesmith.dataset.shingles import Template, normalize, normalize_each, shingle_sets
from tunesmith.quality import blemishes, provenance, task
from tunesmith.quality.check import context_hash, row_texts
from tunesmith.quality.pii import keys, rules, scan
from tunesmith.quality.signs import SIGNS, signs_in

PIECES = (
    "born 1990-01-02", "DOB: 1/2/90", "AB12", "ABCPE1234F", "+49 30 1234567", "passport X1234567", "2001:db8::1",
    "café", "٣٤", "日本", "12.5", "order 4111111111111111", "token = abcdEFGH1234abcdEFGH1234", "\n", "-", "00", "(0",
)  # fmt: skip


def texts(count: int) -> list[str]:
    random.seed(0)
    writer = Writer(0)
    made = []
    for _ in range(count):
        parts = [writer.text(8)]
        for _ in range(random.randrange(5)):
            make = random.choice([*PERSONAL.values(), *DECOYS, lambda _: random.choice(PIECES)])
            parts.append(make(writer))
        made.append(random.choice(["", " ", ". "]).join(parts))
    return made


def test_personal_data_is_found_as_if_every_rule_ran_over_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [[(span.kind, span.start, span.end) for span in scan.find_pii(text)] for text in texts(300)]

    def all_rules(text: str, start: int, end: int) -> list[scan.PiiSpan]:
        words_start = max(start - scan.WORDS_BEFORE, 0)
        return [
            span
            for rule in rules.NUMBERS
            for span in scan._apply(rule, text, words_start if rule.words else start, end)
        ]

    def all_keys(text: str) -> list[scan.PiiSpan]:
        return [
            span for rule in [*(rule for _, rule in keys.PREFIXED_KEYS), keys.ASSIGNED_KEY]
            for span in scan._apply(rule, text)
        ]  # fmt: skip

    monkeypatch.setattr(scan, "_numbers", all_rules)
    monkeypatch.setattr(scan, "_keys", all_keys)
    monkeypatch.setattr(scan, "_may_tell_birth", lambda text, runs: True)
    monkeypatch.setattr(scan, "IPV6", b"")
    monkeypatch.setattr(scan, "_has_dotted_quad", lambda text, runs: True)
    plain = [[(span.kind, span.start, span.end) for span in scan.find_pii(text)] for text in texts(300)]

    assert sum(map(len, plain)) > 150
    assert found == plain


def test_a_text_without_signs_holds_no_personal_data(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [*texts(300), *(text for text, _, _ in FOUND), "", "caf\u00e9", "token: abcd-efgh_i", "born 1/2/90", "7"]
    found = [scan.find_pii(text) for text in made]

    monkeypatch.setattr(scan, "NO_SIGNS", b"")
    monkeypatch.setattr(scan, "FEWEST_DIGITS", 0)

    assert found == [scan.find_pii(text) for text in made]


def test_runs_of_digits_are_those_a_pattern_finds() -> None:
    for text in texts(200):
        plain = [match.span() for match in re.finditer("[0-9]+", text)]
        assert scan._digit_runs(text, text.encode()) == plain


def test_whatever_a_pattern_matches_holds_one_of_its_signs() -> None:
    examples = {
        "refusal": (
            blemishes.REFUSAL,
            ["as an ai language model", "i'm sorry, but i can't assist", "i won't engage in"],
        ),
        "template": (blemishes.TEMPLATE_TOKENS, ["<|im_end|>", "[/INST]", "### Response:", "Human: hi", "</s>"]),
        "control": (blemishes.CONTROL_CHARACTERS, ["\x00", "a\x1bb", "\u200b", "\ufeffx", "\x7f"]),
        "telltale": (provenance.TELLTALES, ["certainly! a", "i hope this helps", "it's worth noting", "here's a b"]),
    }
    for rule, (pattern, matching) in examples.items():
        for text in matching:
            assert pattern.search(text), text
            assert rule in signs_in(text), text
    for prompt in (
        "Rewrite this",
        "in a polite voice",
        "answer like a pirate",
        "Reply as an expert",
        "make it informal",
    ):
        assert task.TONE.search(prompt)
        assert any(sign in prompt.lower() for sign in task.TONE_SIGNS)


@given(st.text(st.sampled_from("a I'm an ai\u0130\u00e9\u20ac\ufeff\ud800 $"), max_size=30))
def test_signs_are_found_at_the_characters_where_they_stand(text: str) -> None:
    lower = text.lower()
    places = {
        rule: [(at, at + len(sign)) for sign in signs for at in range(len(lower)) if lower.startswith(sign, at)]
        for rule, signs in SIGNS.items()
    }
    assert signs_in(text) == {
        rule: (min(start for start, _ in spans), max(end for _, end in spans))
        for rule, spans in places.items() if spans
    }  # fmt: skip


ROLES: tuple[Role, ...] = ("system", "user", "assistant")
CONVERSATIONS = st.builds(
    Conversation,
    st.lists(st.builds(Message, st.sampled_from(ROLES), st.sampled_from(["a", "b", "c"])), max_size=3).map(tuple),
    st.sampled_from([None, None, 1]),
)


@given(CONVERSATIONS)
def test_texts_and_context_are_those_of_prompt_and_completion(row: Conversation) -> None:
    said = [message.content for message in row.prompt if message.role != "system"]
    assert row_texts(row) == ("\n".join(said), "\n".join(message.content for message in row.completion))
    context = [message.content for message in row.prompt if message.role == "system"]
    assert context_hash(row) == (zlib.crc32("\0".join(context).encode()) if context else 0)


def test_shingles_overwritten_leave_the_set_that_cutting_them_out_leaves() -> None:
    letters = random.Random(1)
    made = ["", "ab", "help", "you are a helpful bot. "]
    made += [
        "you are a helpful bot. " + "".join(letters.choices("abc é日", k=letters.randrange(40))) for _ in range(40)
    ]
    none = Template(np.empty(0, np.uint64))
    common = shingle_sets(["you are a helpful bot. "], none)[0][:15]

    sets = shingle_sets(made, Template(common))

    for text, found in zip(made, sets, strict=True):
        told = text.replace(".", "").encode()
        plain = {told[start : start + 5] for start in range(max(len(told) - 4, min(len(told), 1)))}
        whole = shingle_sets([text], none)[0]
        assert len(whole) == len(plain)
        assert found.tolist() == sorted(set(whole.tolist()) - set(common.tolist()))


ODD_CHARACTERS = " \t\n\r\0\x0b\x1c\x1f\x7f\x85\xa0\u2028.aAB\u00df\u0130\ufb01\u3000"


@given(st.lists(st.text(st.sampled_from(ODD_CHARACTERS), max_size=6), max_size=6))
def test_texts_are_normalized_together_as_one_by_one(made: list[str]) -> None:
    assert normalize_each(made) == [normalize(text) for text in made]


@pytest.mark.parametrize(
    "number", ["+1234567890 1234567890 1234567890", "+" + "1234567890" * 8 + "x", "0012" * 30 + "a"]
)
def test_long_numbers_that_are_nothing_take_no_time(number: str) -> None:
    assert [span.kind for span in scan.find_pii(f"call {number}!")] in ([], ["PHONE"])
