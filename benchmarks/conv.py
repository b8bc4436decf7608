"""`python -m benchmarks conv`: convolution, its three passes, on the families of shapes.py."""

from benchmarks import race, shapes

PARTS = ("forward", "grad input", "grad weight")
SLOW = 0.95  # a single shape below this is slower than PyTorch by more than noise


def run(pyconv, torch, settings, show):
    """Race every shape; returns [{"family", "shape", "gflop", "parts": {part: result}}]."""
    rows = []
    for family in shapes.FAMILIES:
        for text in family.shapes:
            if (text in shapes.QUICK or not settings.quick) and settings.filter in f"{family.name}: {text}":
                gflop = shapes.operations(shapes.parse(text)) / 1e9
                rows.append({"family": family.name, "shape": text, "gflop": gflop})

    def finish(i, parts):
        rows[i]["parts"] = parts
        show(shape_row(rows[i]))

    race.race_cases("conv", [shapes.parse(row["shape"]) for row in rows], PARTS, settings, finish)
    return rows


def shape_row(row):
    """One line: ratio and our effective GFLOP/s in each pass."""
    cells = [f"{row['shape']:28}"]
    for part in PARTS:
        result = row["parts"].get(part, {"error": "missing"})
        if "error" in result:
            cells.append(f"{part}: {result['error'][:40]:18}")
        else:
            cells.append(f"{part} {_cell(result):>12} {row['gflop'] / result['seconds']:5.0f} GFLOP/s")
    return " | ".join(cells)


def _cell(result):
    """The ratio with channels-last arrays, and with contiguous ones."""
    return f"{result['ratio']:.2f}x" + (f", {result['contiguous']:.2f}x" if "contiguous" in result else "")


def _family(rows, family, key):
    """A line of one memory format's table; [(ratio, part, shape)] of what is slow."""
    cells, measured = [], []
    for part, target in zip(PARTS, family.targets):
        results = {row["shape"]: row["parts"].get(part, {}) for row in rows}
        ratios = [(result[key], part, shape) for shape, result in results.items() if key in result]
        failed = sum("error" in result for result in results.values())
        mean = race.geometric_mean([ratio for ratio, _, _ in ratios])
        cells.append(f"{mean:.2f}x ({target}x)" + (f", {failed} failed" if failed else ""))
        measured += ratios
    worst = "{:.2f}x {}, {}".format(*min(measured)) if measured else ""
    return f"| {family.name} | {' | '.join(cells)} | {worst} |", [each for each in measured if each[0] < SLOW]


def summary(rows):
    """Markdown: for each memory format a family a line, with geometric means, targets and the worst shape; then
    what is slow."""
    lines = []
    for name, key in (("Channels-last", "ratio"), ("Contiguous", "contiguous")):
        if not any(key in result for row in rows for result in row["parts"].values()):
            continue
        lines += [f"{name} arrays; geometric means of the ratio, with the ratio to reach in brackets:", "",
                  "| family | forward | grad input | grad weight | worst shape |",
                  "|---|---:|---:|---:|---|"]  # fmt: skip
        slow = []
        for family in shapes.FAMILIES:
            mine = [row for row in rows if row["family"] == family.name]
            if mine:
                line, below = _family(mine, family, key)
                lines.append(line)
                slow += below
        total = sum(len(row["parts"]) for row in rows)
        listed = "; ".join(f"{ratio:.2f}x {part} {shape}" for ratio, part, shape in sorted(slow)) or "none"
        lines += ["", f"{len(slow)} of {total} measurements are below {SLOW}x: {listed}.", ""]
    return "\n".join(lines).rstrip()


def details(rows, machine):
    """Markdown: every shape, with effective GFLOP/s of ours and of PyTorch's best, percent of the peak."""
    lines = ["| shape | " + " | ".join(f"{part} | GFLOP/s, of peak | PyTorch" for part in PARTS) + " |",
             "|---|" + "---:|" * 9]  # fmt: skip
    for row in rows:
        cells = []
        for part in PARTS:
            result = row["parts"].get(part, {"error": "missing"})
            if "error" in result:
                cells += ["failed", "", ""]
                continue
            speed = row["gflop"] / result["seconds"]
            best = row["gflop"] / min(result["others"].values())
            percent = 100 * speed / machine["gflops"]
            cells += [_cell(result), f"{speed:.0f}, {percent:.0f} %", f"{best:.0f}"]
        lines.append(f"| {row['shape']} | {' | '.join(cells)} |")
    return "\n".join(lines)
