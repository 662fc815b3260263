"""One row as the model will see it: every token, coloured by whether it is trained on."""

from itertools import groupby
from typing import TYPE_CHECKING

from msgspec import Struct
from rich.console import Group
from rich.text import Text

from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.render import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINED = "bold green"
NOT_TRAINED = "dim"
SEPARATOR = "·"
"""Between tokens, so that their borders show where colours do not."""


class ShownToken(Struct, frozen=True):
    """A token's id, its text, and whether the model is trained to say it."""

    token: int
    text: str
    trained: bool


def shown_tokens(row: Conversation, tokenizer: "PreTrainedTokenizerBase") -> list[ShownToken]:
    """The row's tokens, in order. Raises DataError when the chat template refuses the row."""
    rendered = Renderer(tokenizer).render(row)
    pairs = zip(rendered.tokens.tolist(), rendered.supervised.tolist(), strict=True)
    return [ShownToken(token, str(tokenizer.decode([token])), trained) for token, trained in pairs]


def show_row(row: Conversation, tokenizer: "PreTrainedTokenizerBase") -> Group:
    """The row's tokens for a terminal; trained stretches stand in ⟦ ⟧ as well, for those who see no colour."""
    tokens = shown_tokens(row, tokenizer)
    body = Text()
    for trained, stretch in groupby(tokens, key=lambda shown: shown.trained):
        text = SEPARATOR.join(shown.text for shown in stretch)
        body.append(f"⟦{text}⟧" if trained else text, style=TRAINED if trained else NOT_TRAINED)
    count = sum(shown.trained for shown in tokens)
    summary = Text(f"{row.source}: {len(tokens):,} tokens, {count:,} trained (⟦…⟧, green)\n")
    if not count:
        summary.append("Nothing of this row is trained on: it has no assistant turn with a weight.\n", style="red")
    return Group(summary, body)
