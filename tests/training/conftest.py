"""A small data file, and model folders of several architectures with the embedded model's tokenizer."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import make_model
from transformers import AutoTokenizer

from tunesmith.assets import embedded_model, sample


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


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
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiling them takes a second: once is enough."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(autouse=True)
def _own_cache(
    tmp_path_factory: pytest.TempPathFactory, compiled_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run caches (the reference's log-probabilities) stays in the test, but for the kernels."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "kernels").symlink_to(compiled_kernels)
    monkeypatch.setenv("TUNESMITH_CACHE", str(folder))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty-four preference rows of the sample data."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(sample("preference").read_text().splitlines(keepends=True)[:24]))
    return path


@pytest.fixture
def judged(pairs: Path, tmp_path: Path) -> Path:
    """The same replies, judged one by one."""
    path = tmp_path / "judged.jsonl"
    with path.open("w") as file:
        for line in pairs.read_text().splitlines():
            row = json.loads(line)
            for key, label in (("chosen", True), ("rejected", False)):
                file.write(json.dumps({"prompt": row["prompt"], "completion": row[key], "label": label}) + "\n")
    return path


@pytest.fixture
def brevity(tmp_path: Path) -> str:
    """A reward function: the shorter a reply, the better."""
    path = tmp_path / "brevity.py"
    path.write_text("def reward(completions):\n    return [-len(text) / 20 for text in completions]\n")
    return f"{path}:reward"


@pytest.fixture
def one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A question that the base answers with "Yes" about every second time, and a reward function that wants it to."""
    path = tmp_path / "question.jsonl"
    path.write_text((json.dumps({"prompt": "Say a word.", "completion": "Yes."}) + "\n") * 16)
    code = "def reward(completions):\n    return [float(text.startswith('Yes')) for text in completions]\n"
    (tmp_path / "agreement.py").write_text(code)
    monkeypatch.chdir(tmp_path)
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
