"""One row as the model will see it: every token, coloured by whether it is trained on."""

from itertools import groupby
from typing import TYPE_CHECKING

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


def show_row(row: Conversation, tokenizer: "PreTrainedTokenizerBase") -> Group:
    """The row's tokens for a terminal; trained stretches stand in ⟦ ⟧ as well, for those who see no colour."""
    rendered = Renderer(tokenizer).render(row)
    body = Text()
    for trained, pairs in groupby(
        zip(rendered.tokens, rendered.supervised, strict=True), key=lambda pair: bool(pair[1])
    ):
        pieces = [str(tokenizer.decode([int(token)])) for token, _ in pairs]
        text = SEPARATOR.join(pieces)
        body.append(f"⟦{text}⟧" if trained else text, style=TRAINED if trained else NOT_TRAINED)
    count = int(rendered.supervised.sum())
    summary = Text(f"{row.source}: {len(rendered.tokens):,} tokens, {count:,} trained (⟦…⟧, green)\n")
    if not count:
        summary.append("Nothing of this row is trained on: it has no assistant turn with a weight.\n", style="red")
    return Group(summary, body)
