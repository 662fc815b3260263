"""A fine-tuned model or checkpoint that its owner shares can be asked by others, and nothing else."""

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob
from running_server import RunningServer, ticket_rows

pytestmark = pytest.mark.slow

HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def friend(server: RunningServer) -> openai.OpenAI:
    return server.client("friend")


def ask(client: openai.OpenAI, model: str) -> str:
    return client.chat.completions.create(model=model, messages=HELLO, max_tokens=2).model  # type: ignore[arg-type]


def test_what_is_shared_can_be_asked_until_it_no_longer_is(
    client: openai.OpenAI, friend: openai.OpenAI, job: FineTuningJob
) -> None:
    permissions = client.fine_tuning.checkpoints.permissions
    checkpoint = next(iter(client.fine_tuning.jobs.checkpoints.list(job.id))).fine_tuned_model_checkpoint
    made = list(permissions.create(checkpoint, project_ids=["friend", "colleague", "friend"]))
    assert [one.project_id for one in made] == ["friend", "colleague"]
    assert [one.id for one in permissions.create(checkpoint, project_ids=["friend"])] == [made[0].id]
    assert [one.id for one in permissions.list(checkpoint, limit=1)] == [one.id for one in reversed(made)]
    named = permissions.list(checkpoint, project_id="friend", order="ascending")
    assert [one.id for one in named] == [made[0].id]
    assert ask(friend, checkpoint) == checkpoint
    file = friend.files.create(file=("a.jsonl", ticket_rows(2)), purpose="fine-tune")
    for look in (
        lambda: ask(friend, str(job.fine_tuned_model)),
        lambda: friend.models.delete(checkpoint),
        lambda: friend.fine_tuning.checkpoints.permissions.list(checkpoint),
        lambda: friend.fine_tuning.checkpoints.permissions.delete(made[0].id, fine_tuned_model_checkpoint=checkpoint),
    ):
        with pytest.raises(openai.NotFoundError):
            look()
    with pytest.raises(openai.BadRequestError):
        friend.fine_tuning.jobs.create(model=checkpoint, training_file=file.id)
    assert permissions.delete(made[0].id, fine_tuned_model_checkpoint=checkpoint).deleted
    with pytest.raises(openai.NotFoundError):
        ask(friend, checkpoint)


def test_what_cannot_be_shared_is_refused(client: openai.OpenAI, job: FineTuningJob) -> None:
    permissions = client.fine_tuning.checkpoints.permissions
    checkpoints = [f"{job.fine_tuned_model}:ckpt-step-{step}" for step in (999, "9" * 5000, "one")]
    for model in ("embedded", "ft:embedded:tester::00000000", *checkpoints):
        with pytest.raises(openai.NotFoundError):
            permissions.create(model, project_ids=["friend"])
    with pytest.raises(openai.BadRequestError) as error:
        permissions.create(str(job.fine_tuned_model), project_ids=["No Owner"])
    assert error.value.param == "project_ids[0]"
