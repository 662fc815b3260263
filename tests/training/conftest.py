"""A small data file, and model folders of several architectures with the embedded model's tokenizer."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import make_model
from transformers import AutoTokenizer

from tunesmith.assets import embedded_model


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """Forty tickets in OpenAI's chat format."""
    choose = random.Random(0)
    things = ["invoice", "parcel", "password", "refund", "order", "account", "phone", "card"]
    places = ["in May", "at home", "since Monday", "in the shop", "on the site", "for my mother"]
    path = tmp_path / "tickets.jsonl"
    with path.open("w") as file:
        for number in range(40):
            thing, place = choose.choice(things), choose.choice(places)
            messages = [
                {"role": "user", "content": f"My {thing} number {number} {choose.randint(10, 99)} went wrong {place}."},
                {"role": "assistant", "content": thing},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes (once each) a model folder of an architecture: random weights, the embedded model's tokenizer."""
    folders: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in folders:
            folder = tmp_path_factory.mktemp(architecture)
            tokenizer = AutoTokenizer.from_pretrained(embedded_model())
            make_model(architecture, vocab_size=len(tokenizer)).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            folders[architecture] = folder
        return folders[architecture]

    return make
