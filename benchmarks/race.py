"""Libraries in turn, each in a process of its own; ratios of times that were taken in the same round.

Two OpenMP runtimes in one process disturb each other, and a machine's speed drifts: so each library lives
in a worker, the workers take turns (A B C, C B A, ...), and the result is the median over the rounds of
the ratio within a round. Rounds of one case lie minutes apart, in processes of their own.
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


def time_in_turn(contenders, part, settings, round):
    """Time the same part of every contender once: {name: seconds}, in the reverse order in every other round.

    contenders: {name: (worker, variant)}.
    """
    order = list(contenders.items())
    return {name: worker.ask("time", part=part, variant=variant, seconds=settings.seconds)["seconds"]
            for name, (worker, variant) in (order if round % 2 == 0 else reversed(order))}  # fmt: skip


def add_round(times, seconds):
    """Append what `time_in_turn` returned to {name: [seconds of each round]}."""
    for name, each in seconds.items():
        times.setdefault(name, []).append(each)


def compare(times, ours="pyconv", others=None):
    """The median ratio of the others' best to ours, round by round, with the medians it came from."""
    others = [name for name in times if name != ours] if others is None else others
    ratios = [min(times[name][i] for name in others) / times[ours][i] for i in range(len(times[ours]))]
    medians = {name: statistics.median(rounds) for name, rounds in times.items()}
    return {"ratio": statistics.median(ratios), "seconds": medians[ours],
            "others": {name: medians[name] for name in others}}  # fmt: skip


def race_cases(kind, cases, parts, settings, show):
    """Race every case; [{part: what `compare` returns, or {"error": ...} where one side failed}].

    Each round goes through all cases, in two processes of its own. What disturbs a shared machine for some seconds,
    or one process for its life (which pages of memory it got), is in one round of a case then, not in all.
    show(i, parts): called in the last round, when cases[i] is done.
    """
    raced = [{} for _ in cases]
    for round in range(settings.rounds):
        with Worker("pyconv", settings) as pyconv, Worker("torch", settings) as torch:
            for i, case in enumerate(cases):
                race_case(pyconv, torch, kind, case, parts, settings, round, raced[i])
                if round == settings.rounds - 1:
                    raced[i] = {part: judge(times) for part, times in raced[i].items()}
                    show(i, raced[i])
    return raced


def race_case(pyconv, torch, kind, case, parts, settings, round, raced):
    """One round of a case: adds to raced, {part: {contender: [seconds of each round]}, or {"error": ...}}.

    Both must compute the same: the norms of their results are compared before anything is timed.
    """
    try:
        offered = [worker.ask("prepare", kind=kind, case=case)["calls"] for worker in (pyconv, torch)]
    except RuntimeError as error:
        raced.update((part, {"error": str(error)}) for part in parts)
        return
    for part in parts:
        if part not in offered[1] or "error" in raced.get(part, {}):
            continue
        times = raced.setdefault(part, {})
        contenders = {name: (pyconv, name) for name in offered[0].get(part, {})}
        contenders |= {f"torch {name}": (torch, name) for name in offered[1][part]}
        try:
            if part not in offered[0]:
                raise RuntimeError("not in pyconv")
            check_norms(contenders, part)
            add_round(times, time_in_turn(contenders, part, settings, round))
        except RuntimeError as error:
            times["error"] = str(error)


def check_norms(contenders, part):
    norms = [worker.ask("norm", part=part, variant=variant)["norm"] for worker, variant in contenders.values()]
    if not all(abs(norm - norms[0]) <= 1e-3 * abs(norms[0]) for norm in norms) or norms[0] == 0:
        raise RuntimeError(f"results differ: norms {norms}")


def judge(times):
    """What `compare` returns; where pyconv was timed with contiguous arrays, too, that ratio is "contiguous"."""
    if "error" in times:
        return {"error": times["error"]}
    others = [name for name in times if name.startswith("torch ")]
    result = compare(times, others=others)
    if "contiguous" in times:
        result["contiguous"] = compare(times, "contiguous", others)["ratio"]
    return result


def geometric_mean(values):
    return statistics.geometric_mean(values) if values else float("nan")
