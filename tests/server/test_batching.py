"""Continuous batching changes how fast replies come, not what they say."""

import json
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.evaluation.generate import generate
from tunesmith.models.load import load_model, load_tokenizer
from tunesmith.server.adapters import Adapter
from tunesmith.server.errors import RequestError
from tunesmith.server.generator import Generator
from tunesmith.server.guide import ANY_OBJECT, Guide, json_grammar, json_tokens
from tunesmith.server.replies import GenerationRequest, Piece
from tunesmith.server.sampling import Sampling

GREEDY = Sampling(temperature=0)


class Asked:
    """A request in flight and what has come of it."""

    def __init__(self, generator: Generator, request: GenerationRequest) -> None:
        self.pieces: list[Piece] = []
        self._choices = request.choices
        self._error: Exception | None = None
        self._done = threading.Event()
        self.ticket = generator.submit(request, self._take)

    def _take(self, news: list[Piece] | Exception) -> None:
        if isinstance(news, Exception):
            self._error = news
            self._done.set()
            return
        self.pieces += news
        if sum(piece.finish is not None for piece in self.pieces) == self._choices:
            self._done.set()

    def texts(self) -> list[str]:
        assert self._done.wait(60)
        if self._error is not None:
            raise self._error
        return ["".join(p.text for p in self.pieces if p.choice == choice) for choice in range(self._choices)]


def prompts(generator: Generator, count: int) -> list[tuple[int, ...]]:
    """Prompts of very different lengths."""
    return [
        tuple(generator.language.tokenizer.encode(f"<|im_start|>user\n{'The bear ' * n}sat by lake {n}.<|im_end|>\n"))
        for n in range(1, count + 1)
    ]


def test_batched_greedy_is_one_at_a_time_greedy(generator: Generator) -> None:
    asked = prompts(generator, 12)
    together = [Asked(generator, GenerationRequest(prompt, 24, GREEDY)) for prompt in asked]
    alone = [Asked(generator, GenerationRequest(prompt, 24, GREEDY)).texts() for prompt in asked]
    assert [one.texts() for one in together] == alone


def test_greedy_replies_are_those_of_transformers(generator: Generator) -> None:
    asked = prompts(generator, 6)
    expected = generate(
        load_model("embedded", dtype=torch.float32), generator.language.tokenizer, asked, max_new_tokens=24
    )
    ours = [Asked(generator, GenerationRequest(prompt, 24, GREEDY)) for prompt in asked]
    assert [one.texts()[0].strip() for one in ours] == expected


def test_a_request_that_joins_a_running_batch_changes_nothing(generator: Generator) -> None:
    long, short = prompts(generator, 9)[8], prompts(generator, 1)[0]
    alone = Asked(generator, GenerationRequest(long, 60, GREEDY)).texts()
    running = Asked(generator, GenerationRequest(long, 60, GREEDY))
    while not running.pieces:
        pass
    joined = Asked(generator, GenerationRequest(short, 5, GREEDY)).texts()
    assert running.texts() == alone
    assert joined == Asked(generator, GenerationRequest(short, 5, GREEDY)).texts()


def test_the_same_seed_gives_the_same_replies_in_any_company(generator: Generator) -> None:
    first, other = prompts(generator, 2)
    request = GenerationRequest(first, 20, Sampling(seed=5, temperature=2, top_p=0.9), choices=3)
    alone = Asked(generator, request).texts()
    crowd = [Asked(generator, GenerationRequest(other, 30, Sampling(seed=n))) for n in range(5)]
    assert Asked(generator, request).texts() == alone
    assert len(set(alone)) == 3
    for one in crowd:
        one.texts()


def test_a_cancelled_request_leaves_the_batch(generator: Generator) -> None:
    asked = Asked(generator, GenerationRequest(prompts(generator, 1)[0], 900, Sampling(logit_bias={0: -100})))
    while not asked.pieces:
        pass
    asked.ticket.cancel()
    Asked(generator, GenerationRequest(prompts(generator, 1)[0], 2, GREEDY)).texts()
    assert generator.running == 0


def test_a_closed_generator_tells_those_who_wait() -> None:
    from tunesmith.models.load import load_tokenizer

    made = Generator(load_model("embedded", dtype=torch.float32), load_tokenizer("embedded"))
    asked = Asked(made, GenerationRequest((5, 6), 1000, Sampling(logit_bias={0: -100})))
    made.close()
    with pytest.raises(RequestError) as error:
        asked.texts()
    assert error.value.status == 503


def test_adapters_beside_each_other_answer_as_each_alone(tmp_path: Path) -> None:
    """The reference is the model with the adapter merged into its weights by PEFT."""
    from peft import LoraConfig, PeftModel, get_peft_model

    from tunesmith.models.load import load_tokenizer

    folders = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        adapted = get_peft_model(
            load_model("embedded", dtype=torch.float32),
            LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False),
        )
        folders.append(tmp_path / str(seed))
        adapted.save_pretrained(str(folders[-1]))
    made = Generator(load_model("embedded", dtype=torch.float32), load_tokenizer("embedded"))
    prompt = prompts(made, 3)[2]
    requests = [
        GenerationRequest(prompt, 16, GREEDY, adapter)
        for adapter in (None, Adapter("a", folders[0]), Adapter("b", folders[1]))
    ]
    asked = [Asked(made, request) for request in requests * 2]
    answers = [one.texts()[0] for one in asked]
    made.close()

    base = load_model("embedded", dtype=torch.float32)
    expected = generate(base, made.language.tokenizer, [prompt], max_new_tokens=16)
    for folder in folders:
        model = PeftModel.from_pretrained(load_model("embedded", dtype=torch.float32), str(folder)).merge_and_unload()
        expected += generate(model, made.language.tokenizer, [prompt], max_new_tokens=16)
    assert [answer.strip() for answer in answers] == expected * 2
    assert len(set(expected)) == 3


def test_an_adapter_that_cannot_be_loaded_is_told_and_the_rest_goes_on(generator: Generator, tmp_path: Path) -> None:
    prompt = prompts(generator, 1)[0]
    broken = Asked(generator, GenerationRequest(prompt, 4, GREEDY, Adapter("gone", tmp_path / "gone")))
    with pytest.raises(Exception, match="gone"):
        broken.texts()
    assert Asked(generator, GenerationRequest(prompt, 4, GREEDY)).texts()


@settings(max_examples=15, deadline=None)
@given(limit=st.integers(12, 48), seed=st.integers(0, 10**6))
def test_a_json_reply_parses_whatever_the_model_says_and_wherever_it_is_cut(limit: int, seed: int) -> None:
    import random

    from tunesmith.models.load import load_tokenizer

    tokens = json_tokens(load_tokenizer("embedded"), 2048, [0])
    guide = Guide(tokens, 2048, [0], json_grammar(ANY_OBJECT), param="response_format")
    luck, said = random.Random(seed), []
    for remaining in range(limit, 0, -1):
        allowed = guide.allowed(remaining).nonzero()[:, 0].tolist()
        token = luck.choice(allowed)
        said.append(token)
        guide.take(token)
        if guide.complete:
            break
    assert isinstance(json.loads(tokens.decode_bytes(said)), dict)


def test_every_request_of_a_generator_that_closes_is_answered() -> None:
    closing = Generator(load_model("embedded", dtype=torch.float32), load_tokenizer("embedded"))
    prompt = prompts(closing, 1)[0]
    asked = [Asked(closing, GenerationRequest(prompt, 200, GREEDY)) for _ in range(8)]
    closing.close()
    for one in asked:
        with pytest.raises(RequestError, match="letting go"):
            one.texts()
    with pytest.raises(RequestError, match="letting go"):
        Asked(closing, GenerationRequest(prompt, 4, GREEDY))
