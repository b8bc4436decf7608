"""Libraries in turn, each in a process of its own; ratios of times that were taken in the same round.

Two OpenMP runtimes in one process disturb each other, and a machine's speed drifts: so each library lives
in a worker, the workers take turns (A B C, C B A, ...), and the result is the median over the rounds of
the ratio within a round.
"""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

# What keeps PyTorch (ATen and oneDNN) to an instruction set
TORCH_ISA = {
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}


@dataclass
class Settings:
    """How to measure: see the command line's help."""

    threads: int
    rounds: int = 5
    seconds: float = 0.04  # of each contender in each round
    isa: str | None = None  # limits both libraries
    filter: str = ""
    quick: bool = False


class Worker:
    """A process that knows one library; see worker.py for what it understands."""

    def __init__(self, side, settings):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "PYCONV_", "KMP_"))}
        environment["OMP_NUM_THREADS"] = str(settings.threads)
        # NumPy's threads, which add up the norms that are compared, would spin on while the first call is timed
        environment["OPENBLAS_NUM_THREADS"] = "1"
        if settings.isa:
            environment |= TORCH_ISA.get(settings.isa, {}) | {"PYCONV_ISA": settings.isa}
        self.side = side
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", side],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def ask(self, do, **request):
        """Send a request and return the reply; RuntimeError where the worker failed."""
        print(json.dumps({"do": do, **request}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.side} died")
        reply = json.loads(line)
        if "failed" in reply:
            raise RuntimeError(f"{self.side}: {reply['failed']}")
        return reply

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def time_in_turn(contenders, part, settings):
    """Time the same part of every contender in each round.

    contenders: {name: (worker, variant)}. Returns {name: [seconds of each round]}.
    """
    times = {name: [] for name in contenders}
    for round in range(settings.rounds):
        order = list(contenders.items())
        for name, (worker, variant) in order if round % 2 == 0 else reversed(order):
            reply = worker.ask("time", part=part, variant=variant, seconds=settings.seconds)
            times[name].append(reply["seconds"])
    return times


def compare(times, ours="pyconv", others=None):
    """The median ratio of the others' best to ours, round by round, with the medians it came from."""
    others = [name for name in times if name != ours] if others is None else others
    ratios = [min(times[name][i] for name in others) / times[ours][i] for i in range(len(times[ours]))]
    medians = {name: statistics.median(rounds) for name, rounds in times.items()}
    return {"ratio": statistics.median(ratios), "seconds": medians[ours],
            "others": {name: medians[name] for name in others}}  # fmt: skip


def race_case(pyconv, torch, kind, case, parts, settings):
    """{part: what `compare` returns} for a case of two workers; {part: {"error": ...}} where one failed.

    Both must compute the same: the norms of their results are compared before anything is timed. Where pyconv is
    timed with contiguous arrays, too, that ratio is in the result's "contiguous".
    """
    offered = [worker.ask("prepare", kind=kind, case=case)["calls"] for worker in (pyconv, torch)]
    results = {}
    for part in parts:
        if part not in offered[1]:
            continue
        if part not in offered[0]:
            results[part] = {"error": "not in pyconv"}
            continue
        contenders = {name: (pyconv, name) for name in offered[0][part]}
        contenders |= {f"torch {name}": (torch, name) for name in offered[1][part]}
        try:
            norms = [worker.ask("norm", part=part, variant=variant)["norm"]
                     for worker, variant in contenders.values()]  # fmt: skip
            if not all(abs(norm - norms[0]) <= 1e-3 * abs(norms[0]) for norm in norms) or norms[0] == 0:
                raise RuntimeError(f"results differ: norms {norms}")
            times, others = time_in_turn(contenders, part, settings), [f"torch {name}" for name in offered[1][part]]
            results[part] = compare(times, others=others)
            if "contiguous" in times:
                results[part]["contiguous"] = compare(times, "contiguous", others)["ratio"]
        except RuntimeError as error:
            results[part] = {"error": str(error)}
    return results


def geometric_mean(values):
    return statistics.geometric_mean(values) if values else float("nan")
