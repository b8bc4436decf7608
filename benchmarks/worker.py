"""One library in one long-lived process: prepares cases, and times them when it is told to.

Reads one JSON object a line from standard input and answers with one. The requests:

    {"do": "prepare", "kind": "conv", "case": {...}}   -> {"calls": {part: [variant, ...]}}
    {"do": "time", "part": ..., "variant": ..., "seconds": ...}  -> {"seconds": median of one call}
    {"do": "norm", "part": ..., "variant": ...}        -> {"norm": Euclidean norm of the result}
    {"do": "save", "part": ..., "variant": ..., "path": ...}  -> {}: the result as a .npy file
    {"do": "memory"}                                   -> {"peak_bytes": the most that the process held}
    {"do": "NAME", ...}                                -> what the side's function NAME returns
"""

import importlib
import json
import os
import statistics
import sys
import time

import numpy as np

SHORTEST_SAMPLE = 50e-6  # seconds: shorter calls are timed several at a time
WARM = 0.03  # seconds of calls before any is timed: until then the other library's idle threads may still spin
LONG = 0.3  # seconds: longer calls are warmed up and timed once only


def time_calls(call, seconds):
    """Median duration of one call, over samples that take about `seconds` together."""
    warm = time.perf_counter() + WARM
    while time.perf_counter() < warm:
        call()
    for _ in range(2):  # other processes ran meanwhile: wake the threads, warm the caches
        began = time.perf_counter()
        call()
        once = max(time.perf_counter() - began, 1e-7)
        if once > LONG:
            break
    grouped = max(1, round(SHORTEST_SAMPLE / once))
    samples = []
    for _ in range(max(1 if once > LONG else 3, min(1000, int(seconds / (once * grouped))))):
        began = time.perf_counter()
        for _ in range(grouped):
            call()
        samples.append((time.perf_counter() - began) / grouped)
    return statistics.median(samples)


def peak_bytes():
    """The most memory this process has held resident."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def answer(side, calls, request):
    do = request.pop("do")
    if do == "prepare":
        calls.clear()
        calls.update(side.prepare(**request))
        return {"calls": {part: list(variants) for part, variants in calls.items()}}
    if do == "memory":
        return {"peak_bytes": peak_bytes()}
    if do in ("time", "norm", "save"):
        call = calls[request["part"]][request["variant"]]
        if do == "time":
            return {"seconds": time_calls(call, request["seconds"])}
        result = np.asarray(side.as_numpy(call()))
        if do == "norm":
            return {"norm": float(np.linalg.norm(result.astype(np.float64)))}
        np.save(request["path"], result)
        return {}
    return getattr(side, do)(**request)


def main():
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints may come between the replies
    side = importlib.import_module(f"benchmarks.side_{sys.argv[1]}")
    calls = {}
    for line in sys.stdin:
        try:
            reply = answer(side, calls, json.loads(line))
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
