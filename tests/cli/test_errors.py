"""What a person reads when the input is wrong: one or two lines, exit 2, nothing half-written."""

import subprocess
import sys
from pathlib import Path

import pytest


def tunesmith(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person would."""
    command = [sys.executable, "-c", "from tunesmith.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def assert_refused(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert 1 <= len(lines) <= 2, done.stderr
    for text in expected:
        assert text in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("trainning: {epochs: 1}", ["run.yaml:4:1", "trainning", "did you mean `training`"]),
        ("training: {epochs: many}", ["run.yaml:4:12", "training.epochs", "many"]),
        ("training: {learning_rate: 3}", ["training.learning_rate"]),
        ("training: {epochs: 1, steps: 2}", ["epochs", "steps"]),
        ("adapter: {kind: loar}", ["adapter.kind", "loar"]),
        ("model: [", ["run.yaml", "YAML"]),
    ],
)
def test_a_bad_spec_is_refused_with_its_line_and_key(tmp_path: Path, line: str, expected: list[str]) -> None:
    (tmp_path / "run.yaml").write_text(f"model: embedded\ndata: {{train: rows.jsonl}}\noutput: out\n{line}\n")
    assert_refused(tunesmith("train", "run.yaml", cwd=tmp_path), *expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml"]


def test_a_missing_spec_is_refused(tmp_path: Path) -> None:
    assert_refused(tunesmith("train", "run.yaml", cwd=tmp_path), "run.yaml", "No such file")


def test_a_missing_data_file_is_refused_before_the_model_loads(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: embedded\ndata: {train: rows.jsonl}\noutput: out\n")
    assert_refused(tunesmith("train", "run.yaml", cwd=tmp_path), "rows.jsonl")
    assert not (tmp_path / "out").exists()


def test_a_missing_model_folder_is_refused(tmp_path: Path, tickets: str) -> None:
    (tmp_path / "run.yaml").write_text(f"model: ./no-model\ndata: {{train: {tickets}}}\noutput: out\n")
    assert_refused(tunesmith("train", "run.yaml", cwd=tmp_path), "./no-model")
    assert not (tmp_path / "out").exists()


def test_a_model_folder_without_a_tokenizer_is_refused(tmp_path: Path, tickets: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    (tmp_path / "run.yaml").write_text(f"model: model\ndata: {{train: {tickets}}}\noutput: out\n")
    assert_refused(tunesmith("train", "run.yaml", cwd=tmp_path), "tokenizer")
    assert not (tmp_path / "out").exists()


def test_broken_rows_are_refused_by_training_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": 3}\n')
    (tmp_path / "run.yaml").write_text("model: embedded\ndata: {train: rows.jsonl}\noutput: out\n")
    assert_refused(tunesmith("train", "run.yaml", cwd=tmp_path), "rows.jsonl:2")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["evaluate", "compare", "export"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, verb: str) -> None:
    assert_refused(tunesmith(verb, "nothing", cwd=tmp_path), "nothing")


@pytest.mark.parametrize("option", ["--backend", "--grader-url"])
@pytest.mark.parametrize("url", ["localhost:8001", "http://", "http://[::1/v1"])
def test_a_server_s_address_that_is_none_is_refused(tmp_path: Path, option: str, url: str) -> None:
    assert_refused(tunesmith("serve", "--port", "0", option, url, cwd=tmp_path), f"{option} {url}", "such as http://")
    assert not (tmp_path / "tunesmith-data").exists()


def test_an_unknown_verb_is_refused(tmp_path: Path) -> None:
    done = tunesmith("trian", cwd=tmp_path)
    assert done.returncode == 2
    assert "trian" in done.stderr


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, tickets: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run.yaml").write_text(f"model: embedded\ndata: {{train: {tickets}}}\noutput: file/out\n")
    assert_refused(tunesmith("train", "run.yaml", cwd=tmp_path), "file")


def test_a_report_is_written_over_the_last_one_but_never_over_an_input(tmp_path: Path) -> None:
    row = '{"prompt": "Where is it?", "completion": "Here."}\n'
    (tmp_path / "rows.jsonl").write_text(row)
    for _ in range(2):
        done = tunesmith("data", "check", "rows.jsonl", "--html", "page.html", "--json", "report.json", cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert not done.stderr
    assert_refused(tunesmith("data", "check", "rows.jsonl", "--json", "./rows.jsonl", cwd=tmp_path), "is an input")
    assert_refused(tunesmith("data", "check", "rows.jsonl", "--html", ".", cwd=tmp_path), "folder")
    assert (tmp_path / "rows.jsonl").read_text() == row
