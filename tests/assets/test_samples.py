import json
import re
from collections import Counter
from itertools import combinations, islice

import pytest
from tools import samples
from tools.corpus import conversations, episodes
from tools.dirty import luhn_digit

from tunesmith.assets import sample

FILES = samples.files()


@pytest.mark.parametrize("name", FILES)
def test_generator_rewrites_the_committed_sample_byte_for_byte(name: str) -> None:
    assert (sample("tickets").parent / name).read_bytes() == FILES[name].encode()


def test_same_seed_gives_the_same_corpus_and_another_seed_another() -> None:
    assert list(islice(conversations(5), 200)) == list(islice(conversations(5), 200))
    assert list(islice(episodes(5), 50)) == list(islice(episodes(5), 50))
    assert list(islice(conversations(5), 200)) != list(islice(conversations(6), 200))


def test_corpus_alternates_user_and_assistant_and_says_something_each_time() -> None:
    for messages in islice(conversations(7), 2000):
        turns = [message["role"] for message in messages if message["role"] != "system"]
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(message["content"].strip() == message["content"] != "" for message in messages)


@pytest.mark.parametrize("name", ["tickets.jsonl", "extraction.jsonl", "style.jsonl", "preference.jsonl"])
def test_clean_samples_hold_no_near_duplicate_inputs(name: str) -> None:
    inputs = [row.get("prompt") or row["messages"][-2]["content"] for row in map(json.loads, FILES[name].splitlines())]
    words = [set(re.findall(r"\w+", text.lower())) for text in inputs]
    assert max(len(a & b) / len(a | b) for a, b in combinations(words, 2)) <= samples.MAX_OVERLAP


def test_tickets_are_balanced() -> None:
    labels = Counter(json.loads(line)["messages"][-1]["content"] for line in FILES["tickets.jsonl"].splitlines())
    assert len(labels) == 6
    assert min(labels.values()) > 0.75 * max(labels.values())


def test_extraction_outputs_are_json_found_in_their_inputs() -> None:
    for line in FILES["extraction.jsonl"].splitlines():
        _, user, assistant = json.loads(line)["messages"]
        record = json.loads(assistant["content"])
        assert list(record) == ["customer", "city", "item", "color", "quantity", "due"]
        assert all(record[key] in user["content"] for key in ("customer", "city", "item", "color", "due"))


class TestDirtyTruth:
    """The truth file against the lines it talks about."""

    lines = FILES["dirty.jsonl"].splitlines()
    truth: dict[str, list[list[int]]] = json.loads(FILES["dirty.truth.json"])

    def planted(self, kind: str) -> list[list[str]]:
        return [[self.lines[number - 1] for number in group] for group in self.truth[kind]]

    def test_every_fault_is_planted_on_lines_of_its_own(self) -> None:
        numbers = [number for groups in self.truth.values() for group in groups for number in group]
        assert len(numbers) == len(set(numbers))
        assert max(numbers) <= len(self.lines)

    def test_exact_duplicates_are_equal_and_nothing_else_is(self) -> None:
        assert all(first == second for first, second in self.planted("exact_duplicate"))
        repeated = sum(count > 1 for count in Counter(self.lines).values())
        assert repeated == len(self.truth["exact_duplicate"])

    def test_near_duplicates_differ_in_one_word(self) -> None:
        for pair in self.planted("near_duplicate"):
            first, second = (json.loads(line)["messages"][1]["content"].split() for line in pair)
            assert sum(a != b for a, b in zip(first, second, strict=True)) == 1

    def test_contradictions_share_the_input_and_not_the_label(self) -> None:
        for pair in self.planted("contradiction"):
            first, second = (json.loads(line)["messages"] for line in pair)
            assert first[:-1] == second[:-1]
            assert first[-1] != second[-1]

    def test_leaked_rows_are_rows_of_the_ticket_sample(self) -> None:
        tickets = set(FILES["tickets.jsonl"].splitlines())
        assert [line for line in self.lines if line in tickets] == [
            line
            for (line,) in sorted(self.planted("leaked_from_tickets"), key=lambda group: self.lines.index(group[0]))
        ]

    def test_card_numbers_satisfy_the_checksum(self) -> None:
        for (line,) in self.planted("pii_credit_card"):
            found = re.search(r"\d{4} \d{4} \d{4} \d{4}", line)
            assert found is not None
            number = found[0].replace(" ", "")
            assert luhn_digit(number[:-1]) == number[-1]

    def test_ibans_satisfy_the_checksum(self) -> None:
        for (line,) in self.planted("pii_iban"):
            found = re.search(r"DE(\d\d)(\d{18})", line)
            assert found is not None
            assert int(f"{found[2]}1314{found[1]}") % 97 == 1
