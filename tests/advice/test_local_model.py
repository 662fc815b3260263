"""The embedded model as a responder, and an embedding model beside BM25."""

import pytest
from tests.advice.planted import PlantedModel, right_label, tickets

from tunesmith.advice.baselines import PASSAGES, Trial, measure
from tunesmith.advice.embeddings import Embeddings
from tunesmith.advice.reading import pair_bits_per_byte
from tunesmith.advice.responders import TIMED_CALLS, LocalModel
from tunesmith.assets import embedded_model, sample
from tunesmith.dataset.read import load
from tunesmith.errors import ModelError


@pytest.fixture(scope="module")
def embedded() -> LocalModel:
    return LocalModel("embedded")


def test_replies_come_in_order_with_their_tokens_and_the_first_are_timed(embedded: LocalModel) -> None:
    prompts = [row.prompt for row in load(sample("tickets"))[:5]]
    replies = embedded.answer(prompts, 4)
    assert [reply.text for reply in replies] == [embedded.answer([prompt], 4)[0].text for prompt in prompts]
    assert [reply.prompt_tokens for reply in replies] == [embedded.count_tokens(prompt) for prompt in prompts]
    assert [reply.seconds is not None for reply in replies] == [True] * TIMED_CALLS + [False, False]


def test_it_reads_its_own_language_better_than_pairs_of_letters_do_and_no_other(embedded: LocalModel) -> None:
    known = load(sample("tickets"))
    bits, pairs = embedded.bits_per_byte(known), pair_bits_per_byte(known)
    assert bits is not None and pairs is not None and bits < pairs
    text = "Кошка сидит на крыше и смотрит на море, когда идёт дождь и дует ветер. "
    foreign = [type(known[0])(text=text[place:] + text[:place]) for place in range(20)]
    bits, pairs = embedded.bits_per_byte(foreign), pair_bits_per_byte(foreign)
    assert bits is not None and pairs is not None and bits > pairs


def test_an_embedding_model_searches_beside_bm25() -> None:
    rows = tickets(40)
    trial = Trial("classification", rows[:8], rows[8:], (), Embeddings(str(embedded_model())))
    measured = measure(trial, PlantedModel(right_label), None, "Say the label.")
    names = [each.baseline.name for each in measured]
    assert names[-2:] == ["retrieval over the training rows", "retrieval by meaning over the training rows"]


def test_the_nearest_text_is_the_same_text() -> None:
    texts = [row.prompt[-1].content for row in tickets(12)]
    found = Embeddings(str(embedded_model())).nearest(texts, texts[3:6], PASSAGES)
    assert [positions[0] for positions in found] == [3, 4, 5]
    assert {len(positions) for positions in found} == {PASSAGES}


def test_an_embedding_model_that_is_not_there_is_named_by_its_flag() -> None:
    with pytest.raises(ModelError, match="--embeddings nowhere"):
        Embeddings("nowhere")
