"""Refusals and a model's talk about itself, in the forms that models use, and answers that only sound like them."""

import pytest

from tunesmith.quality.blemishes import is_refusal


@pytest.mark.parametrize(
    "output",
    [
        "Unfortunately, I can't help with that request.",
        "I won't be able to help with that.",
        "It would not be appropriate for me to answer that.",
        "I'm not able to engage in that conversation.",
        "I can't do that.",
        "I'm unable to help with that.",
        "I apologize, but I cannot fulfill this request.",
        "I\u2019m sorry, I can\u2019t comply with that.",
        "Sorry, but I'm not able to provide that information.",
        "As an AI language model, I have no opinions.",
        "My knowledge cutoff is in 2021.",
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Leider kann ich diese Frage nicht beantworten.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "Je suis d\u00e9sol\u00e9, mais je ne peux pas vous aider avec cela.",
        "En tant que mod\u00e8le de langage, je ne peux pas r\u00e9pondre.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Mi dispiace, ma non posso aiutarti.",
        "Desculpe, mas n\u00e3o posso ajudar com isso.",
    ],
)
def test_a_refusal_is_one(output: str) -> None:
    assert is_refusal(output)


@pytest.mark.parametrize(
    "output",
    [
        "Unfortunately, the parcel is lost. We can send another.",
        "I can't say enough about this lamp.",
        "I'm sorry for the delay; I can send it today.",
        "I cannot recommend this film enough.",
        "I'm unable to attend the meeting on Monday.",
        "He used it as an aid to memory.",
        "Leider ist der Artikel ausverkauft.",
        "Als Kind war er dort.",
        "Lo siento mucho por la espera, ya lo enviamos.",
    ],
)
def test_an_answer_that_sounds_like_one_is_none(output: str) -> None:
    assert not is_refusal(output)
