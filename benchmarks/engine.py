"""Training beside TRL on the same rows: what `tunesmith bench --against trl` measures, printed as a Markdown table.

    python benchmarks/engine.py --against trl --steps 2 --rounds 3 > benchmarks/results/table.md

On a machine with a GPU it measures there. `--layers` cuts the model, for a machine that has no hour to spare.
"""

import argparse
import sys

from tunesmith.training.bench import CASES, LARGE_SHAPE, SHAPE, BenchResult, bench

SHAPES = {"135m": SHAPE, "1b": LARGE_SHAPE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", choices=["trl"])
    parser.add_argument("--case", action="append", choices=list(CASES), dest="cases")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shape", choices=list(SHAPES), default="135m", help="of the Llama to train (default: 135m)")
    parser.add_argument("--layers", type=int, help="instead of the shape's own")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    result = bench(
        against=options.against,
        cases=options.cases or tuple(CASES),
        steps=options.steps,
        rounds=options.rounds,
        shape=shape | ({"num_hidden_layers": options.layers} if options.layers else {}),
        observer=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(as_table(result))


def as_table(result: BenchResult) -> str:
    lines = [
        "| case | engine | tokens/s | s/step | peak memory | of the ceiling | Tunesmith is faster |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in result.lines:
        share = "" if line.ceiling_share is None else f"{line.ceiling_share:.0%}"
        faster = "" if line.times_faster is None else f"{line.times_faster:.2f} times"
        lines.append(
            f"| {line.case} | {line.engine} | {line.tokens_per_second:,.0f} | {line.seconds_per_step:.1f} "
            f"| {line.peak_bytes / 2**30:.2f} GiB | {share} | {faster} |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return "\n".join(
        [*lines, "", f"{result.threads} threads; {result.rounds} rounds of {result.steps} steps; {versions}"]
    )


if __name__ == "__main__":
    main()
