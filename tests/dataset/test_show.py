from rich.console import Console

from tunesmith.dataset.conversation import Conversation, Message, Source
from tunesmith.dataset.show import show_row, shown_tokens
from tunesmith.models.load import load_tokenizer

ROW = Conversation(
    messages=(Message("user", "Hello?"), Message("assistant", "Good morning!")),
    source=Source("rows.jsonl", 3, "openai"),
)


def shown(row: Conversation) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(show_row(row, load_tokenizer("embedded")))
    return capture.get()


def test_the_trained_stretch_stands_in_brackets_with_the_end_of_its_turn() -> None:
    text = shown(ROW).replace("·", "")
    assert "⟦Good morning!<|im_end|>⟧" in text
    assert text.startswith("rows.jsonl:3: ")


def test_a_row_without_anything_to_train_on_says_so() -> None:
    unweighted = Conversation(messages=(ROW.messages[0], Message("assistant", "Hi.", weight=0)), source=ROW.source)
    assert "Nothing of this row is trained on" in shown(unweighted)


def test_tokens_join_to_the_rendered_text() -> None:
    tokens = shown_tokens(ROW, load_tokenizer("embedded"))
    assert "".join(token.text for token in tokens) == (
        "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\nGood morning!<|im_end|>\n"
    )
    assert "".join(token.text for token in tokens if token.trained) == "Good morning!<|im_end|>"
