import json

from tests.advice.planted import butler

from tunesmith.advice.instruction import write_instruction
from tunesmith.dataset.prompting import reference


def test_labels_are_listed_most_frequent_first() -> None:
    instruction = write_instruction("classification", ["b", "A", "a.", "A", "b", "c"])
    assert instruction == "Answer with exactly one of these labels and nothing else: A, b, c."


def test_keys_are_listed_in_their_order_with_types_and_closed_values() -> None:
    answers = [json.dumps({"name": f"n{n}", "size": n, "color": ["red", "blue"][n % 2]}) for n in range(40)]
    instruction = write_instruction("extraction", answers)
    assert 'in this order: "name" (string), "size" (number), "color" (one of blue, red)' in instruction


def test_a_key_that_is_often_missing_is_said_to_be_optional() -> None:
    answers = ['{"a": 1}', '{"a": 1, "b": null}'] * 10
    assert '"b" (null, left out where it does not apply)' in write_instruction("extraction", answers)


def test_length_and_turns_of_phrase_are_told() -> None:
    instruction = write_instruction("free text", [reference(butler_row) for butler_row in butler(50)])
    assert 'Begin with "It is my humble"' in instruction or 'Begin with "It is my humble duty"' in instruction
    assert "on one line" in instruction
    assert 'End with "lordship, and I remain"' in instruction


def test_no_common_phrase_is_made_up() -> None:
    assert "Begin" not in write_instruction("free text", [f"{n} apples and pears" for n in range(30)])
