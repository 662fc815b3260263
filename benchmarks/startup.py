"""Seconds from starting `tunesmith train` to its first optimizer step on a cached data set, beside TRL's.

Each side is a process of its own with the same rows, model, adapter and hyperparameters: ours the command line itself,
whose event log is watched; TRL's the script that `tunesmith eject` prints, which keeps what it tokenizes in the cache
of `datasets`. The first process of each fills its caches (of bytecode, too) and is not counted. Ours also validates
before its first step and reads the checklist's report and the plan (cached); TRL does none of that.

    python benchmarks/startup.py [--rows 2000] [--rounds 3] [--json OUT]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tunesmith.assets import sample
from tunesmith.exporting.eject import eject
from tunesmith.run_folder import RunFolder
from tunesmith.spec import dump_spec, parse_spec

THEIRS = """
import os, runpy, sys, time
import transformers
class First(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **given):
        spent = os.times()
        print("first step", time.time(), sum(spent[:4]), flush=True)
        os._exit(0)
trainer = runpy.run_path(sys.argv[1])["trainer"]
trainer.add_callback(First())
trainer.train()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = measure(Path(folder), asked.rows, asked.rounds)
    middle = {
        name: {clock: statistics.median(values[clock]) for clock in ("wall", "cpu")} for name, values in times.items()
    }
    for name, values in middle.items():
        print(f"{name:10} {values['wall']:6.2f} s to the first step, {values['cpu']:6.2f} s of CPU")
    ratio = {clock: middle["tunesmith"][clock] / middle["trl"][clock] for clock in ("wall", "cpu")}
    print(f"ratio      {ratio['wall']:6.2f}                     {ratio['cpu']:6.2f}")
    if asked.json:
        found = {"rows": asked.rows, "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"}
        asked.json.write_text(json.dumps(found | {"seconds": times, "ratio": ratio}, indent=2) + "\n")


def measure(folder: Path, rows: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds to the first step by both clocks, of each side's counted processes."""
    data = folder / "rows.jsonl"
    data.write_text("".join(distinct_rows(rows)))
    output = folder / "run"
    values = {
        "model": "embedded",
        "data": {"train": str(data), "holdout": 0.02},
        "training": {"steps": 10, "max_length": 256},
        "output": str(output),
    }
    spec_file = folder / "run.yaml"
    spec_file.write_text(dump_spec(parse_spec(values)))
    run = RunFolder(folder / "ejected")
    run.root.mkdir()
    run.spec.write_text(dump_spec(parse_spec(values | {"output": str(run.root)})))
    script = folder / "reference.py"
    script.write_text(eject(run).removesuffix("trainer.train()\ntrainer.save_model(OUTPUT)\n"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"TUNESMITH_CACHE": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "datasets")}
    ours = [sys.executable, "-m", "tunesmith", "train", str(spec_file)]
    theirs = [sys.executable, "-c", THEIRS, str(script)]
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in ("tunesmith", "trl")}
    for round_number in range(rounds + 1):
        subprocess.run(["rm", "-rf", str(output)], check=True)
        for name, (wall, cpu) in {
            "tunesmith": our_first_step(ours, environment, output / "events.jsonl"),
            "trl": their_first_step(theirs, environment),
        }.items():
            if round_number:
                times[name]["wall"].append(wall)
                times[name]["cpu"].append(cpu)
    return times


def our_first_step(command: list[str], environment: dict[str, str], events: Path) -> tuple[float, float]:
    """Seconds from starting the process until the log has its first step, and the processor's."""
    began = time.time()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        told = psutil.Process(process.pid)
        while not (events.exists() and b'"event":"step"' in events.read_bytes()):
            if process.poll() is not None:
                assert process.stderr is not None
                raise SystemExit(process.stderr.read().decode()[-3000:])
            time.sleep(0.02)
        wall, spent = time.time() - began, told.cpu_times()
        process.kill()
    return wall, spent.user + spent.system


def their_first_step(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """The same of TRL's process, which says so itself."""
    began = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = [line.split() for line in done.stdout.splitlines() if line.startswith("first step")]
    if not said:
        raise SystemExit(done.stderr[-3000:])
    return float(said[0][2]) - began, float(said[0][3])


def distinct_rows(count: int) -> list[str]:
    """The sample tickets again and again, each time about another number."""
    lines = sample("tickets").read_text().splitlines()
    made = []
    for number in range(count):
        row = json.loads(lines[number % len(lines)])
        row["messages"][-2]["content"] += f" (case {number * 7919 % 100003}, desk {number % 37})"
        made.append(json.dumps(row) + "\n")
    return made


if __name__ == "__main__":
    main()
