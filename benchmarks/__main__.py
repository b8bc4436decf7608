"""The command line: python -m benchmarks [conv|ops|train|infer|accuracy|fashion|profile MODEL|report]."""

import argparse
import datetime
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks import accuracy, conv, fashion, machine, networks, ops, profile, race, report

RESULTS = Path(__file__).with_name("results")
PARTS = {"conv": conv, "ops": ops, "train": networks.train, "infer": networks.infer,
         "accuracy": accuracy, "fashion": fashion}  # fmt: skip


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Race pyconv against PyTorch.")
    parser.add_argument(
        "part", nargs="?", default="all", choices=["all", *PARTS, "profile", "report"],
        help="what to measure (all); report writes RESULTS.md from the JSON files",
    )  # fmt: skip
    parser.add_argument("model", nargs="?", help="for profile: which model")
    parser.add_argument("--quick", action="store_true", help="few cases and short rounds")
    parser.add_argument("--filter", default="", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--threads", type=int, default=machine.cpus(), help="of both libraries (%(default)s)")
    parser.add_argument("--isa", choices=["baseline", "avx2", "avx512"], help="limit both libraries to this")
    parser.add_argument("--rounds", type=int, help="turns of each library (5, quick: 3)")
    parser.add_argument("--seconds", type=float, help="of a turn (0.04, quick: 0.02)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="where the JSON goes (benchmarks/results/KIND OF MACHINE for a full run, else runs/benchmarks)",
    )  # fmt: skip
    return parser.parse_args()


def main():
    chosen = arguments()
    if chosen.part == "report":
        return report.write(RESULTS, RESULTS.with_name("RESULTS.md"))
    if find_spec("torch") is None:
        sys.exit("python -m benchmarks: PyTorch, the other side of every race, is missing: pip install torch==2.13.0")
    settings = race.Settings(chosen.threads, chosen.rounds or (3 if chosen.quick else 5),
                             chosen.seconds or (0.02 if chosen.quick else 0.04), chosen.isa, chosen.filter,
                             chosen.quick)  # fmt: skip
    complete = not (chosen.quick or chosen.filter)
    show = lambda text: print(text, flush=True)  # noqa: E731
    with race.Worker("pyconv", settings) as pyconv, race.Worker("torch", settings) as torch:
        here = machine.describe(pyconv, torch)
        show(machine.line(here))
        out = chosen.out or (RESULTS / machine.kind(here) if complete else Path("runs", "benchmarks"))
        out.mkdir(parents=True, exist_ok=True)
        if chosen.part == "profile":
            return profile.run(pyconv, here, chosen.model or "lenet", settings, show)
        for name in PARTS if chosen.part == "all" else [chosen.part]:
            show(f"\n=== {name}\n")
            rows = PARTS[name].run(pyconv, torch, settings, show)
            show("\n" + PARTS[name].summary(rows))
            path = out / f"{name}{'-' + chosen.isa if chosen.isa else ''}.json"
            date = datetime.datetime.now(datetime.UTC).date().isoformat()
            result = {"machine": here, "date": date, "rounds": settings.rounds, "rows": rows}
            path.write_text(json.dumps(result, indent=1) + "\n")
            show(f"\nwritten: {path}")
    return None


if __name__ == "__main__":
    main()
