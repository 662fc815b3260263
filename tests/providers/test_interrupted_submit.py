"""A submit that is killed between the provider's answer and the writing down of the job buys nothing twice."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.providers.wire import Wire

from tunesmith.errors import ProviderError, RunError
from tunesmith.providers import submit as module
from tunesmith.providers import together as together_module
from tunesmith.providers.state import begun_file, read_state
from tunesmith.providers.submit import Offer, submit
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec

MakeSpec = Callable[..., RunSpec]


def yes(offer: Offer) -> bool:
    return True


def no(offer: Offer) -> bool:
    raise AssertionError("what is bought already needs no second yes")


def submit_and_be_killed(spec: RunSpec, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def be_killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as change:
        change.setattr(module, "_record", be_killed)
        with pytest.raises(KeyboardInterrupt):
            submit(spec, provider, confirm=yes)


def test_the_job_is_found_by_its_token(make_spec: MakeSpec, openai_wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    submit_and_be_killed(spec, openai_wire.url, monkeypatch)
    job = submit(spec, openai_wire.url, confirm=no)
    assert job is not None
    assert openai_wire.count("POST", "/v1/fine_tuning/jobs") == 1
    state = read_state(RunFolder(Path(spec.output)))
    assert (state.job.id, state.training_file, state.validation_file) == ("ftjob-1", "file-0", "file-1")


def test_a_job_with_another_token_is_another(
    make_spec: MakeSpec, openai_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    submit_and_be_killed(spec, openai_wire.url, monkeypatch)
    openai_wire.asked["metadata"] = {"tunesmith_request": "of another machine"}
    submit(spec, openai_wire.url, confirm=yes)
    assert openai_wire.count("POST", "/v1/fine_tuning/jobs") == 2


def test_a_job_of_another_spec_is_not_taken_for_this_one(
    make_spec: MakeSpec, openai_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_and_be_killed(make_spec(), openai_wire.url, monkeypatch)
    changed = make_spec(training={"epochs": 1})
    with pytest.raises(RunError, match=r"has started job ftjob-1 .* tunesmith jobs cancel ftjob-1 --provider http"):
        submit(changed, openai_wire.url, confirm=yes)
    begun_file(RunFolder(Path(changed.output))).unlink()
    assert submit(changed, openai_wire.url, confirm=yes) is not None


def test_what_the_provider_refused_is_asked_anew(make_spec: MakeSpec, openai_wire: Wire) -> None:
    spec = make_spec()
    openai_wire.refusals["POST /v1/fine_tuning/jobs"] = (400, {"error": {"message": "No such model"}})
    with pytest.raises(ProviderError, match="No such model"):
        submit(spec, openai_wire.url, confirm=yes)
    openai_wire.refusals.clear()
    assert submit(spec, openai_wire.url, confirm=yes) is not None


def test_together_s_job_is_found_by_its_file_name_and_time(
    make_spec: MakeSpec, together_wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("meta-llama/Llama-3.1-8B")
    submit_and_be_killed(spec, "together", monkeypatch)
    with monkeypatch.context() as change:  # the wire's job is of 2024
        change.setattr(together_module, "CLOCK_SECONDS", float("inf"))
        assert submit(spec, "together", confirm=no) is not None
    assert together_wire.count("POST", "/v1/fine-tunes") == 1
    again = make_spec("meta-llama/Llama-3.1-8B", output=f"{spec.output}-2")
    submit_and_be_killed(again, "together", monkeypatch)
    submit(again, "together", confirm=yes)
    assert together_wire.count("POST", "/v1/fine-tunes") == 3
