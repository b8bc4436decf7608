"""`python -m benchmarks accuracy`: errors of float32 convolutions against float64, by algorithm.

The error is relative and of root mean squares: ||result - exact|| / ||exact||. Data: normal; as after a ReLU
(far from zero mean); and of magnitudes 1e-4 and 1e4.
"""

import tempfile
from pathlib import Path

from benchmarks import race, shapes

PARTS = ("forward", "grad input", "grad weight")
ALGORITHMS = ("auto", "direct")
KINDS = ("normal", "relu", "tiny", "huge")
SHAPES = [
    "8x64@56 k64 3x3", "8x128@28 k128 3x3", "8x256@14 k256 3x3", "8x512@7 k512 3x3", "8x50@30 k70 3x3",
    "64x32@14 k64 5x5", "8x48@35 k64 5x5", "8x256@14 k1024 1x1", "8x128@56 k128 3x3 s2", "4x3@224 k64 7x7 s2",
    "16x192@28 k192 3x3 g192", "64x6@14 k16 5x5 p0", "8x192@17 k192 1x7", "8x128@17 k192 7x1", "8x32@28 k32 7x7",
    "8x48@32 k64 11x11", "64x3@32 k64 3x3", "8x3@30 k256 3x3",
]  # fmt: skip
# Largest error allowed by algorithm; a weight gradient may have 1.5 times PyTorch's own error instead.
LIMITS = {"auto": 1.5e-6, "direct": 3e-7}
WEIGHT_LIMIT = 1.5


def run(pyconv, torch, settings, show):
    """Returns [{"shape", "data", "errors": {part: {"auto", "direct", "torch"}}}]."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "result.npy"))
        for text in SHAPES[:3] if settings.quick else SHAPES:
            for kind in KINDS:
                label = f"{text}, {kind}"
                if settings.filter in label:
                    rows.append(measure(pyconv, torch, text, kind, path))
                    show(row_text(rows[-1]))
    return rows


def measure(pyconv, torch, text, kind, path):
    case = shapes.parse(text) | {"data": kind}
    torch.ask("prepare_exact", case=case)
    errors = {part: {"torch": torch.ask("own_error", part=part)["error"]} for part in PARTS}
    for algorithm in ALGORITHMS:
        pyconv.ask("prepare", kind="conv", case=case | {"algorithm": algorithm})
        for part in PARTS:
            pyconv.ask("save", part=part, variant="pyconv", path=path)
            errors[part][algorithm] = torch.ask("error_of", part=part, path=path)["error"]
    return {"shape": text, "data": kind, "errors": errors}


def limit(row, part, algorithm):
    """The error allowed."""
    return WEIGHT_LIMIT * row["errors"][part]["torch"] if part == "grad weight" else LIMITS[algorithm]


def row_text(row):
    cells = [f"{row['shape']:26} {row['data']:7}"]
    for part in PARTS:
        errors = row["errors"][part]
        cells.append(part + " " + " ".join(f"{name} {errors[name]:.1e}" for name in (*ALGORITHMS, "torch")))
    return " | ".join(cells)


def summary(rows):
    """Markdown: the largest errors, and what is beyond its limit."""
    lines = ["| algorithm | forward | grad input | grad weight | grad weight, beside PyTorch's error |",
             "|---|---:|---:|---:|---:|"]  # fmt: skip
    beyond = []
    for algorithm in ALGORITHMS:
        worst = [f"{max(row['errors'][part][algorithm] for row in rows):.1e}" for part in PARTS]
        ratios = [row["errors"]["grad weight"][algorithm] / row["errors"]["grad weight"]["torch"] for row in rows]
        lines.append(f"| {algorithm} | {' | '.join(worst)} | {race.geometric_mean(ratios):.2f}x, "
                     f"at most {max(ratios):.2f}x |")  # fmt: skip
        beyond += [
            f"{part} {row['shape']} {row['data']} ({algorithm}, {row['errors'][part][algorithm]:.1e})"
            for row in rows
            for part in PARTS
            if row["errors"][part][algorithm] > limit(row, part, algorithm)
        ]
    lines += ["", "Largest relative RMS errors. Allowed: 1.5e-6 (auto, where Winograd may be chosen), 3e-7 (direct); "
              "for the weight gradient 1.5 times PyTorch's own error.",
              "", f"Beyond the limit: {'; '.join(beyond) if beyond else 'none'}."]  # fmt: skip
    return "\n".join(lines)


def details(rows, machine):
    """Markdown: every shape and kind of data."""
    names = [f"{part}: {name}" for part in PARTS for name in (*ALGORITHMS, "torch")]
    lines = [f"| shape, data | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for row in rows:
        cells = [f"{row['errors'][part][name]:.1e}" for part in PARTS for name in (*ALGORITHMS, "torch")]
        lines.append(f"| {row['shape']}, {row['data']} | {' | '.join(cells)} |")
    return "\n".join(lines)
