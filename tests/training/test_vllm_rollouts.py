"""Rollouts by a vLLM: a stand-in that loads the adapter it is handed and generates with the embedded model."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_ranks import run_ranks
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from test_resume import curve, train_and_die
from test_train import make_spec, read_events

from tunesmith.errors import SpecError, TrainingError
from tunesmith.evaluation.generate import end_tokens, sample
from tunesmith.models.load import load_model, load_tokenizer
from tunesmith.run_folder import RunFolder
from tunesmith.spec import RunSpec
from tunesmith.training import rollouts, vllm_rollouts
from tunesmith.training.events import EvalEvent, StepEvent
from tunesmith.training.rollouts import Said
from tunesmith.training.run import train
from tunesmith.training.vllm_rollouts import VllmSampler
from vllm_stand_in import Vllm, serving

ONLINE: dict[str, dict[str, Any]] = {
    "grpo": {"kind": "grpo", "num_generations": 4, "max_completion_length": 2},
    "ppo": {"kind": "ppo", "num_ppo_epochs": 2, "max_completion_length": 2},
}
DISTANCE = "sampling/sampling_logp_difference/mean"


@dataclass
class Generating(Vllm):
    """One that replies with the embedded model and the adapter that it has loaded, in fp32.

    Of each token it says by what it was drawn (`processed`), or its log-probability before anything was done to that.
    """

    model: Any = None
    processed: bool = True
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def load(self, folder: Path) -> None:
        if self.model is None:
            base = load_model("embedded", dtype=torch.float32)
            self.model = PeftModel.from_pretrained(base, str(folder)).eval()
        set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"))

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self.one_at_a_time:
            tokenizer = load_tokenizer("embedded")
            likeliest = body["top_k"] == 1
            assert likeliest or body["stop_token_ids"] == end_tokens(self.model.generation_config, tokenizer)
            seeds = [body["seed"] + index for index in range(body["n"])]
            prompts = [body["prompt"]] * body["n"]
            how = {"max_new_tokens": body["max_tokens"], "temperature": body["temperature"]}
            replies = sample(self.model, tokenizer, prompts, seeds=seeds, **how)
            temperature = body["temperature"] if self.processed else 1.0
            logps = [self._logps(body["prompt"], reply, temperature) for reply in replies]
            if likeliest and self.processed:
                logps = [[0.0] * len(reply) for reply in replies]
            choices = [
                {"index": index, "token_ids": reply, "logprobs": {"token_logprobs": by}}
                for index, (reply, by) in enumerate(zip(replies, logps, strict=True))
            ]
        return 200, {"choices": choices[::-1]}  # in any order

    @torch.no_grad()
    def _logps(self, prompt: list[int], reply: list[int], temperature: float) -> list[float]:
        logits = self.model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1].float()
        values: list[float] = torch.log_softmax(logits / temperature, 1)[range(len(reply)), reply].tolist()
        return values


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Generating]:
    monkeypatch.setattr(vllm_rollouts, "WAITS", (0.0, 0.0))
    with serving(Generating()) as made:
        yield made


@pytest.fixture
def four_questions(one_question: Path) -> Path:
    one_question.write_text("".join(one_question.read_text().splitlines(keepends=True)[:4]))
    return one_question


def online_spec(kind: str, rows: Path, output: Path, vllm: Vllm | None, **training: object) -> RunSpec:
    objective = ONLINE[kind] | {"reward": "agreement.py:reward", "vllm_url": None if vllm is None else vllm.url}
    usual = {
        "steps": 3, "epochs": None, "batch_size": 4 if kind == "grpo" else 16, "max_length": 96, "eval_every": 3,
        "learning_rate": 2e-3, "scheduler": "constant", "warmup": 0.0, "early_stopping": None,
    }  # fmt: skip
    return make_spec(rows, output, data={"eval": str(rows)}, objective=objective, training=usual | training)


def steps(run: RunFolder) -> list[StepEvent]:
    return [event for event in read_events(run) if isinstance(event, StepEvent)]


@pytest.mark.parametrize("kind", ["grpo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_it_improves_the_reward_by_the_very_steps_that_its_replies_make_here(
    kind: str,
    vllm: Generating,
    one_question: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[list[Said]] = []

    def remembered(sampler: VllmSampler, *prompts: Any, **how: Any) -> list[Said]:
        said.append(asked(sampler, *prompts, **how))
        return said[-1]

    asked = VllmSampler.sample
    monkeypatch.setattr(VllmSampler, "sample", remembered)
    there = train(online_spec(kind, one_question, tmp_path / "there", vllm)).run

    before, after = (event for event in read_events(there) if isinstance(event, EvalEvent))
    assert after.measures["reward"] > before.measures["reward"] + 0.2
    assert all(event.measures[DISTANCE] < 1e-4 for event in steps(there))
    assert vllm.adapters == {}
    assert not there.rollouts.exists()

    monkeypatch.setattr(rollouts, "sample", lambda *_, **__: [one.tokens for one in said.pop(0)])
    here = train(online_spec(kind, one_question, tmp_path / "here", None)).run
    assert said == []
    for one, other in zip(steps(there), steps(here), strict=True):
        assert (one.loss, one.grad_norm) == pytest.approx((other.loss, other.grad_norm), rel=1e-4, abs=1e-6)
        assert one.measures == pytest.approx(other.measures | {DISTANCE: one.measures[DISTANCE]}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ONLINE)
def test_at_another_temperature_it_must_say_by_what_it_draws(
    kind: str, vllm: Generating, four_questions: Path, tmp_path: Path
) -> None:
    spec = online_spec(kind, four_questions, tmp_path / "run", vllm, steps=1)
    spec = spec.model_copy(update={"objective": spec.objective.model_copy(update={"temperature": 0.7})})
    vllm.processed = False
    with pytest.raises(SpecError, match=r"start it with --logprobs-mode processed_logprobs, or leave objective\.temp"):
        train(spec)
    assert vllm.adapters == {}
    assert not (tmp_path / "run").exists()

    vllm.processed = True
    (step,) = steps(train(spec).run)
    assert step.measures[DISTANCE] < 1e-4  # what draws and what learns are one distribution
    assert {body["temperature"] for body in vllm.asked} == {0.7}


def test_it_is_asked_in_tokens_by_seeds_of_its_own_and_forgets_prompts_with_their_adapter(
    vllm: Generating,
    four_questions: Path,
    tmp_path: Path,
) -> None:
    run = train(online_spec("grpo", four_questions, tmp_path / "run", vllm, steps=1, eval_every=1)).run
    validated, step, again = vllm.asked[:4], vllm.asked[4:8], vllm.asked[8:]
    assert len(again) == 4
    ends = end_tokens(None, load_tokenizer("embedded"))
    first = step[0]
    assert first == {
        "model": first["model"], "prompt": first["prompt"], "n": 4, "max_tokens": 2, "temperature": 1.0, "top_p": 1.0,
        "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": ends, "logprobs": 0,
        "return_token_ids": True, "cache_salt": first["cache_salt"], "seed": first["seed"],
    }  # fmt: skip
    seeds = sorted(body["seed"] for body in step)
    assert min(later - sooner for sooner, later in itertools.pairwise(seeds)) >= 4
    assert sorted(body["seed"] for body in validated) == sorted(body["seed"] for body in again)
    assert {body["cache_salt"] for body in validated} == {first["cache_salt"]}
    assert {body["cache_salt"] for body in again}.isdisjoint({first["cache_salt"]})
    assert vllm.loads == 2  # with the adapter as it was before the first step, and after it
    assert steps(run)[0].measures["completions/mean_length"] <= 2


def test_one_that_hiccups_or_is_started_again_is_asked_again(
    vllm: Generating, four_questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restarted(sampler: VllmSampler, model: Any) -> None:
        given(sampler, model)
        vllm.adapters.clear()
        vllm.drops = 1

    given = VllmSampler.give
    monkeypatch.setattr(VllmSampler, "give", restarted)
    train(online_spec("grpo", four_questions, tmp_path / "run", vllm))
    assert vllm.loads == 4 + 5  # new weights, and before each of three steps and two evaluations


def test_one_that_stays_away_costs_no_step_and_is_asked_the_same_when_it_is_back_elsewhere(
    vllm: Generating, four_questions: Path, tmp_path: Path
) -> None:
    def away(event: object) -> None:
        if isinstance(event, StepEvent):
            vllm.drops = 1000
            vllm.asked.clear()

    spec = online_spec("grpo", four_questions, tmp_path / "run", vllm, steps=2, eval_every=2)
    with pytest.raises(TrainingError, match=r"vllm_url: .* does not answer any more: .*; start it .* with --resume"):
        train(spec, observer=away)
    run = RunFolder(Path(spec.output))
    assert (run.checkpoints / "step-1").is_dir()
    assert not run.rollouts.exists()
    with serving(Generating()) as other:
        train(online_spec("grpo", four_questions, tmp_path / "run", other, steps=2, eval_every=2), resume=True)
    assert asked_of(vllm)  # which are not all, when some are given up while others wait to be asked
    assert asked_of(vllm) <= asked_of(other)
    assert [event.step for event in steps(run)] == [1, 2]


def asked_of(vllm: Vllm) -> set[tuple[int, str]]:
    """Seed and adapter of every request of a step; a validation asks for one reply to a prompt."""
    return {(body["seed"], body["cache_salt"]) for body in vllm.asked if body["n"] > 1}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_is_told_the_same(
    vllm: Generating,
    four_questions: Path,
    tmp_path: Path,
) -> None:
    settings = {"steps": 3, "checkpoint_every": 2, "eval_every": 2}
    whole = train(online_spec("grpo", four_questions, tmp_path / "whole", vllm, **settings)).run
    killed = online_spec("grpo", four_questions, tmp_path / "killed", vllm, **settings)
    deaths = 0
    while train_and_die(killed, after_syncs=9 + 4 * deaths):
        deaths += 1
    assert deaths > 1
    run = RunFolder(Path(killed.output))
    assert curve(run) == curve(whole)
    assert not run.rollouts.exists()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_ranks_share_what_it_is_asked(sharding: str, vllm: Generating, four_questions: Path, tmp_path: Path) -> None:
    spec = online_spec("grpo", four_questions, tmp_path / "run", vllm, sharding=sharding)
    run_ranks(2, lambda: train(spec) and None)
    assert [event.step for event in steps(RunFolder(Path(spec.output)))] == [1, 2, 3]
    assert vllm.loads == 4
    assert len({body["seed"] for body in vllm.asked}) == 4 + 3 * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"serves": "acme/llama"}, r"serves tiny, acme/llama, and not embedded; start it with /.*model"),
        ({"context": 12}, r"takes 12 tokens, and the longest prompt with its reply has 1\d; .* --max-model-len 1\d"),
        ({"key": "secret"}, r"wants a key; set TUNESMITH_BACKEND_KEY"),
        ({"max_lora_rank": 8}, r"\(500: LoRA rank 16 is greater than max_lora_rank 8.\); .* --max-lora-rank 16, where"),
        (
            {"takes_adapters": False},
            r"\(404: Not Found\); start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable",
        ),
    ],
)
def test_one_that_cannot_do_it_is_refused_with_the_mend_and_nothing_left_behind(
    change: dict[str, Any],
    message: str,
    vllm: Generating,
    four_questions: Path,
    tmp_path: Path,
) -> None:
    for name, value in change.items():
        setattr(vllm, name, value)
    with pytest.raises((SpecError, TrainingError), match=f"^objective.vllm_url: {vllm.url} .*{message}") as refused:
        train(online_spec("grpo", four_questions, tmp_path / "run", vllm))
    assert "--resume" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    assert vllm.asked == []


@pytest.mark.parametrize(
    ("url", "message"),
    [("http://127.0.0.1:1/v1", "does not answer: .*; start it with"), ("{root}", r"is no vLLM's \(404: Not Found\)")],
)
def test_an_address_without_a_vllm_is_refused(
    url: str,
    message: str,
    vllm: Generating,
    four_questions: Path,
    tmp_path: Path,
) -> None:
    vllm.url = url.format(root=vllm.url.removesuffix("/v1"))
    with pytest.raises(SpecError, match=message):
        train(online_spec("grpo", four_questions, tmp_path / "run", vllm))
    assert not (tmp_path / "run").exists()


def test_one_that_gives_no_token_ids_is_told_to_be_too_old(
    vllm: Generating,
    four_questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = {"index": 0, "text": "Yes", "logprobs": {"token_logprobs": [-1.0]}}
    monkeypatch.setattr(Generating, "complete", lambda *_: (200, {"choices": [choice]}))
    with pytest.raises(TrainingError, match=r"does not say each reply's token ids .* take vLLM 0\.32"):
        train(online_spec("grpo", four_questions, tmp_path / "run", vllm))
