"""The data stage beside its peers, on rows with planted truth: speed, recall, precision and peak memory.

    python -m benchmarks.data                     # 50,000 rows of 1.1 kB, two cores; needs the extra `bench`
    python -m benchmarks.data --memory 1000000    # short rows: memory per row, and what ten million would take

Every measurement runs in a process of its own, confined to the same cores. The peers are slow, so they are timed on the
first rows of the same file; both pipelines' time grows with the rows, so the ratios are of rows per second.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
from benchmarks.planted_rows import PlantedFiles, plant

CORES = 2
DATASKETCH_ROWS = 3_000
PRESIDIO_ROWS = 600
PRESIDIO_KINDS = {
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "CREDIT_CARD": "CREDIT_CARD",
    "IBAN_CODE": "IBAN",
    "US_SSN": "US_SSN",
    "UK_NINO": "UK_NINO",
    "IP_ADDRESS": "IP_ADDRESS",
    "MAC_ADDRESS": "MAC_ADDRESS",
}


def stopwatch() -> Callable[[], dict[str, float]]:
    """Starts; what it returns gives the seconds since then, by the clock and of work on all cores."""

    def work() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    clock, worked = time.perf_counter(), work()
    return lambda: {"seconds": time.perf_counter() - clock, "cpu_seconds": work() - worked}


def texts_of(path: Path, limit: int | None = None) -> list[tuple[int, str]]:
    """Line number and text (question and answer) of the readable rows among the first `limit` lines."""
    from tunesmith.dataset.conversation import Conversation
    from tunesmith.dataset.read import read
    from tunesmith.quality.check import row_texts

    rows = (row for row in read(path) if isinstance(row, Conversation))
    return [(row.source.line, "\n".join(row_texts(row))) for row in rows if limit is None or row.source.line <= limit]


def checklist(files: PlantedFiles) -> dict[str, Any]:
    """The whole checklist without tokenization, as the command line runs it."""
    from tunesmith.quality.checklist import check

    stop = stopwatch()
    report = check([files.rows])
    times = stop()
    return {"rows": report.rows} | times


def duplicates(files: PlantedFiles) -> dict[str, Any]:
    """Exact and near duplicates, from texts at hand, with recall and precision."""
    from benchmarks.planted_rows import jaccard

    from tunesmith.quality.checklist import read_texts
    from tunesmith.quality.duplicates import duplicate_rows

    rows = read_texts(str(files.rows))
    stop = stopwatch()
    found = duplicate_rows(rows)
    times = stop()
    line = rows.lines.tolist()
    exact = {line[copy] for copy in found.exact}
    near = {line[copy]: (copy, kept) for copy, kept in found.near.items()}
    planted_exact, planted_near = {later for _, later in files.truth.exact}, {later for _, later in files.truth.near}
    # What was not planted as near still is near where its similarity, computed anew, is 0.8 (chains aside).
    wrong = [
        later
        for later, (copy, kept) in near.items()
        if later not in planted_near | planted_exact
        and jaccard(f"{rows.inputs[copy]} {rows.outputs[copy]}", f"{rows.inputs[kept]} {rows.outputs[kept]}") < 0.8
    ]
    return times | {
        "rows": len(rows),
        "exact_recall": len(planted_exact & exact) / len(planted_exact),
        "exact_precision": len(planted_exact & exact) / max(len(exact), 1),
        "near_recall": len(planted_near & (near.keys() | exact)) / len(planted_near),
        "near_precision": 1 - len(wrong) / max(len(near), 1),
    }


def datasketch(files: PlantedFiles) -> dict[str, Any]:
    """The same with datasketch: exact by hash, near by MinHash and LSH over the same 5-character shingles."""
    from datasketch import MinHash, MinHashLSH

    rows = texts_of(files.rows, DATASKETCH_ROWS)
    stop = stopwatch()
    index = MinHashLSH(threshold=0.8, num_perm=128)
    seen: dict[str, int] = {}
    copies = []
    for line, text in rows:
        folded = " ".join(text.lower().split())
        if folded in seen:
            copies.append(line)
            continue
        seen[folded] = line
        sketch = MinHash(num_perm=128)
        sketch.update_batch({folded[start : start + 5].encode() for start in range(len(folded) - 4)})
        if index.query(sketch):
            copies.append(line)
        index.insert(line, sketch)
    return {"rows": len(rows)} | stop()


def personal(files: PlantedFiles) -> dict[str, Any]:
    """The check for personal data on all cores, with recall and precision of its spans."""
    from concurrent.futures import ProcessPoolExecutor

    from tunesmith.quality.pii import find_pii

    rows = texts_of(files.rows)
    chunks = [rows[start : start + 1_000] for start in range(0, len(rows), 1_000)]
    stop = stopwatch()
    with ProcessPoolExecutor(CORES) as pool:
        for _ in pool.map(spans_of, chunks):
            pass
    times = stop()
    spans = [(line, span.kind, text[span.start : span.end]) for line, text in rows for span in find_pii(text)]
    return {"rows": len(rows)} | times | scores(files, spans, None)


def spans_of(rows: list[tuple[int, str]]) -> int:
    """How much personal data the rows hold."""
    from tunesmith.quality.pii import find_pii

    return sum(len(find_pii(text)) for _, text in rows)


def presidio(files: PlantedFiles) -> dict[str, Any]:
    """Presidio's analyzer with all its recognizers for English over a blank spaCy model, in batches of one process."""
    import spacy
    import tldextract.tldextract
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    # The list of public suffixes that comes with the package, instead of one fetched over the network.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    tldextract.extract = tldextract.tldextract.TLD_EXTRACTOR
    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.nlp = {"en": spacy.blank("en")}
    analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
    rows = texts_of(files.rows, PRESIDIO_ROWS)
    analyzer.analyze(rows[0][1], "en")  # its patterns are compiled at first use
    stop = stopwatch()
    found = [(line, text, analyzer.analyze(text, "en")) for line, text in rows]
    times = stop()
    spans = [
        (line, PRESIDIO_KINDS.get(span.entity_type, span.entity_type), text[span.start : span.end])
        for line, text, results in found
        for span in results
    ]
    return {"rows": len(rows)} | times | scores(files, spans, PRESIDIO_ROWS)


def scores(files: PlantedFiles, spans: list[tuple[int, str, str]], limit: int | None) -> dict[str, float]:
    """Recall over all planted kinds and over those that Presidio has; precision over all spans."""
    planted = {line: item for line, item in files.truth.personal.items() if limit is None or line <= limit}
    by_line: dict[int, list[tuple[str, str]]] = {}
    for line, kind, value in spans:
        by_line.setdefault(line, []).append((kind, value))

    def found(line: int) -> bool:
        kind, value = planted[line]
        return any(told == kind and (text in value or value in text) for told, text in by_line.get(line, []))

    shared = [line for line, (kind, _) in planted.items() if kind in PRESIDIO_KINDS.values()]
    right = sum(
        line in planted and kind == planted[line][0] and (text in planted[line][1] or planted[line][1] in text)
        for line, kind, text in spans
    )
    return {
        "recall": sum(map(found, planted)) / max(len(planted), 1),
        "recall_of_shared_kinds": sum(map(found, shared)) / max(len(shared), 1),
        "precision": right / max(len(spans), 1),
    }


def truths(files: PlantedFiles) -> dict[str, Any]:
    """Contradictions, leakage and broken lines against what was planted."""
    from tunesmith.dataset.conversation import BrokenRow
    from tunesmith.dataset.read import read
    from tunesmith.quality.checklist import read_texts
    from tunesmith.quality.contradictions import contradicting_rows
    from tunesmith.quality.leakage import leaked_rows

    rows, evaluation = read_texts(str(files.rows)), read_texts(str(files.evaluation))
    lines = rows.lines.tolist()
    pairs = {(lines[pair.left], lines[pair.right]) for pair in contradicting_rows(rows)}
    involved = {line for pair in files.truth.contradictions for line in pair}
    leaked = {int(evaluation.lines[row]) for row in leaked_rows(rows, evaluation)}
    broken = {row.line: row.column for row in read(files.rows) if isinstance(row, BrokenRow)}
    return {
        "contradictions_recall": len(pairs & files.truth.contradictions) / len(files.truth.contradictions),
        "contradictions_precision": sum(set(pair) <= involved for pair in pairs) / max(len(pairs), 1),
        "leakage_recall": len(leaked & files.truth.leaked) / len(files.truth.leaked),
        "leakage_precision": len(leaked & files.truth.leaked) / max(len(leaked), 1),
        "broken_lines_found": len(broken.keys() & files.truth.broken.keys()) / len(files.truth.broken),
        "broken_lines_in_place": sum(broken.get(line) == column for line, column in files.truth.broken.items())
        / len(files.truth.broken),
        "whole_lines_called_broken": len(broken.keys() - files.truth.broken.keys()),
    }


def short_rows(files: Path) -> dict[str, Any]:
    """The checklist over one file of short rows."""
    from tunesmith.quality.checklist import check

    stop = stopwatch()
    report = check([files])
    return {"rows": report.rows} | stop()


PEERS = {"datasketch": ("datasketch",), "presidio": ("presidio_analyzer", "spacy")}
"""Measurement → the packages it needs, which the extra `bench` installs."""

MEASUREMENTS: dict[str, Callable[[PlantedFiles], dict[str, Any]]] = {
    measure.__name__: measure for measure in (checklist, duplicates, datasketch, personal, presidio, truths)
}


def missing(measurements: Iterable[str]) -> list[str]:
    """The packages that the measurements need and that are not installed."""
    needed = [package for name in measurements for package in PEERS.get(name, ())]
    return [package for package in needed if importlib.util.find_spec(package) is None]


def measured(name: str, folder: Path, rows: int) -> dict[str, Any]:
    """Run a measurement in a process of its own; adds `peak_mb`, its whole process tree's proportional set size."""
    command = [sys.executable, "-m", "benchmarks.data", "--measure", name, "--folder", str(folder), "--rows", str(rows)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, tree_mb(process.pid))
            time.sleep(0.25)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{name} failed")
    return json.loads(output.splitlines()[-1]) | {"peak_mb": peak}


def tree_mb(pid: int) -> float:
    """Megabytes of a process and its children, shared pages counted once."""
    total = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0.0
    for process in tree:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e6


def write_short_rows(path: Path, rows: int) -> None:
    """Distinct rows of about 100 bytes."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            word = f"{number * 2654435761 % 2**32:08x}"
            stream.write(
                f'{{"prompt": "What is behind door {word} of house {number}?", "completion": "A {word[::-1]}."}}\n'
            )


def compare(rows: int) -> None:
    """Print the table of measurements."""
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measured(name, Path(folder), rows) for name in MEASUREMENTS}
    print(f"| measurement, {rows:,} rows of 1.1 kB, {CORES} cores | rows/s | CPU µs/row | peak MB | planted truth |")
    print("| --- | ---: | ---: | ---: | --- |")
    for name, result in results.items():
        rate = work = ""
        if "seconds" in result:
            rate = f"{result['rows'] / result['seconds']:,.0f}"
            work = f"{1e6 * result['cpu_seconds'] / result['rows']:,.0f}"
        truth = ", ".join(
            f"{key.replace('_', ' ')} {value:.4g}"
            for key, value in result.items()
            if key not in ("rows", "seconds", "cpu_seconds", "peak_mb")
        )
        print(f"| {name} | {rate} | {work} | {result['peak_mb']:,.0f} | {truth} |")
    for ours, theirs in (("duplicates", "datasketch"), ("personal", "presidio")):
        for what in ("seconds", "cpu_seconds"):
            rates = [results[name]["rows"] / results[name][what] for name in (ours, theirs)]
            print(f"\n{ours}: {rates[0] / rates[1]:,.0f} times {theirs} in rows per {what.replace('_', ' ')[:-1]}")


def memory(rows: int) -> None:
    """Print the peak memory at half the rows and at all of them, and the line through both."""
    peaks = []
    for count in (rows // 2, rows):
        with tempfile.TemporaryDirectory() as folder:
            write_short_rows(Path(folder) / "rows.jsonl", count)
            result = measured("short_rows", Path(folder), count)
        peaks.append(result["peak_mb"])
        print(f"{count:,} short rows: {result['rows'] / result['seconds']:,.0f} rows/s, peak {peaks[-1]:,.0f} MB")
    slope = (peaks[1] - peaks[0]) * 1e6 / (rows - rows // 2)
    print(
        f"{slope:,.0f} bytes a row; ten million rows would take {peaks[1] + slope * (10_000_000 - rows) / 1e6:,.0f} MB"
    )


def main() -> None:
    """Compare, or run one measurement for a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--memory", type=int, metavar="ROWS")
    parser.add_argument("--measure", choices=[*MEASUREMENTS, "short_rows"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if packages := missing([given.measure] if given.measure else [] if given.memory else MEASUREMENTS):
        parser.exit(2, f"benchmarks.data: needs {' and '.join(packages)}: pip install 'tunesmith[bench]'\n")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if given.measure == "short_rows":
        print(json.dumps(short_rows(given.folder / "rows.jsonl")))
    elif given.measure:
        print(json.dumps(MEASUREMENTS[given.measure](plant(given.folder, given.rows))))
    elif given.memory:
        memory(given.memory)
    else:
        compare(given.rows)


if __name__ == "__main__":
    main()
