"""What is asked of a person, what is not, and what becomes of the answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.advice.planted import PlantedModel, right_label, tickets

from tunesmith import api
from tunesmith.advice.advise import Asked, advise
from tunesmith.advice.result import Advice, Needs
from tunesmith.cli.advise import command


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every call, answered with advice on planted tickets."""
    calls: list[dict[str, Any]] = []

    def planted(data: str, model: str, *, needs: Needs, **options: Any) -> Advice:
        calls.append({"needs": needs, **options})
        return advise(tickets(80), "meta-llama/Llama-3.1-8B", PlantedModel(right_label), asked=Asked(20, needs=needs))

    monkeypatch.setattr(api, "advise", planted)
    return calls


@pytest.mark.parametrize(
    ("options", "fresh"),
    [
        ([], None),
        (["--yes"], True),
        (["--no"], False),
        (["--fresh-data"], True),
        (["--no", "--fresh-data"], True),
    ],
)
def test_nothing_is_asked_where_no_terminal_is_and_yes_or_no_answers_what_is_open(
    asked: list[dict[str, Any]], options: list[str], fresh: bool | None
) -> None:
    done = CliRunner().invoke(command, ["tickets.jsonl", "--model", "m", *options])
    assert done.exit_code == 0, done.output
    assert asked[0]["needs"] == Needs(fresh_data=fresh)
    assert "Stop at prompting" in done.output
    assert "?\n" not in done.output.split("The decision")[0]


def test_json_is_the_whole_advice_and_nothing_else(asked: list[dict[str, Any]]) -> None:
    done = CliRunner().invoke(command, ["tickets.jsonl", "--model", "m", "--json", "--monthly-calls", "500"])
    found = json.loads(done.stdout)
    assert found["needs"]["monthly_calls"] == 500
    assert {"baselines", "recipe", "diagnosis", "alternatives", "bits_per_byte"} <= set(found)


def test_where_the_advice_is_kept_is_told_with_the_next_command(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["tickets.jsonl", "--model", "m", "--write", "a.json"])
    assert asked[0]["write"] == "a.json"
    assert "tunesmith evaluate RUN --advice a.json" in done.output
