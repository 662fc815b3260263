"""The `jobs` verbs as a person types them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.providers.conftest import make_spec, openai_wire, rows  # noqa: F401  # fixtures
from tests.providers.wire import Wire, openai_event

from tunesmith.cli.jobs import command
from tunesmith.errors import ProviderError
from tunesmith.spec import RunSpec, dump_spec


@pytest.fixture
def spec_file(make_spec: Callable[..., RunSpec], tmp_path: Path) -> str:  # noqa: F811
    path = tmp_path / "run.yaml"
    path.write_text(dump_spec(make_spec("some-model")))
    return str(path)


def test_submit_shows_the_price_asks_and_does_nothing_on_no(spec_file: str, openai_wire: Wire) -> None:  # noqa: F811
    done = CliRunner().invoke(command, ["submit", spec_file, "--provider", openai_wire.url], input="n\n")
    assert done.exit_code == 1
    assert "price     not known" in done.stderr
    assert "nothing was uploaded or started" in done.stderr
    assert openai_wire.requests == []


def test_submit_watches_to_the_end_and_prints_job_and_evaluation(spec_file: str, openai_wire: Wire) -> None:  # noqa: F811
    openai_wire.script = ["succeeded"]
    openai_wire.events = [openai_event(1, "Step 1", step=1, train_loss=0.5)]
    arguments = ["submit", spec_file, "--provider", openai_wire.url, "--model", "gpt-4o-mini-2024-07-18", "--yes"]
    done = CliRunner().invoke(command, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["job"]["tuned_model"].startswith("ft:")
    assert result["evaluation"]["metrics"][0]["name"] == "accuracy"


def test_a_detached_job_is_watched_later_and_a_failed_one_is_an_error(
    spec_file: str,
    openai_wire: Wire,  # noqa: F811
) -> None:
    detached = CliRunner().invoke(command, ["submit", spec_file, "--provider", openai_wire.url, "--yes", "--detach"])
    assert "tunesmith jobs watch" in detached.stdout
    openai_wire.script = ["failed"]
    openai_wire.error = {"code": "x", "message": "bad rows", "param": None}
    run = detached.stdout.split("jobs watch ")[1].strip()
    done = CliRunner().invoke(command, ["watch", run])
    assert isinstance(done.exception, ProviderError)
    assert str(done.exception) == "job ftjob-1 failed: bad rows"
