"""`python -m benchmarks fashion`: real training on Fashion-MNIST, wall time and test accuracy.

`python -m pyconv.train` beside torch_train.py, which does the same in PyTorch: one after the other, start of
the interpreter included.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = [("lenet", 10, 0.92), ("resnet18", 1, 0.88)]  # model, epochs, accuracy to reach


def run(pyconv, torch, settings, show):
    """Returns [{"model", "epochs", "target", "pyconv": {"seconds", "accuracy"}, "torch": {...}}]."""
    rows = []
    for model, epochs, target in RUNS:
        if settings.filter not in f"{model} {epochs}":
            continue
        epochs = 1 if settings.quick else epochs
        row = {"model": model, "epochs": epochs, "target": target}
        options = ["--model", model, "--epochs", str(epochs), "--threads", str(settings.threads)]
        with tempfile.TemporaryDirectory() as out:
            row["pyconv"] = timed(["pyconv.train", "--data", "fashion-mnist", "--out", out, *options], settings)
            metrics = json.loads(Path(out, "metrics.json").read_text())
            row["pyconv"]["accuracy"] = metrics["test_accuracy"]
        row["torch"] = timed(["benchmarks.torch_train", *options], settings)
        row["torch"]["accuracy"] = float(re.findall(r"test accuracy ([\d.]+)", row["torch"].pop("output"))[-1])
        row["pyconv"].pop("output")
        rows.append(row)
        show(row_text(row))
    return rows


def timed(command, settings):
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}")
    return {"seconds": time.perf_counter() - began, "output": done.stdout}


def row_text(row):
    ours, theirs = row["pyconv"], row["torch"]
    return (f"{row['model']}, {row['epochs']} epochs: {ours['seconds']:.0f} s, test accuracy {ours['accuracy']:.4f} "
            f"(to reach {row['target']}); PyTorch {theirs['seconds']:.0f} s, {theirs['accuracy']:.4f}; "
            f"{theirs['seconds'] / ours['seconds']:.2f}x")  # fmt: skip


def summary(rows):
    """Markdown: a run a line."""
    lines = ["| model, epochs | pyconv | test accuracy (to reach) | PyTorch | its test accuracy | ratio |",
             "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in rows:
        ours, theirs = row["pyconv"], row["torch"]
        lines.append(f"| {row['model']}, {row['epochs']} | {ours['seconds']:.0f} s | {ours['accuracy']:.4f} "
                     f"({row['target']}) | {theirs['seconds']:.0f} s | {theirs['accuracy']:.4f} "
                     f"| {theirs['seconds'] / ours['seconds']:.2f}x |")  # fmt: skip
    return "\n".join([*lines, "", "Wall time of the whole command, evaluation after each epoch included."])


def details(rows, machine):
    return "The commands: `python -m pyconv.train --data fashion-mnist --model MODEL --epochs N` and " \
           "`python -m benchmarks.torch_train --model MODEL --epochs N`."  # fmt: skip
