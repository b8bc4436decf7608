"""`python -m benchmarks conv`: convolution, its three passes, on the families of shapes.py."""

from benchmarks import race, shapes

PARTS = ("forward", "grad input", "grad weight")
SLOW = 0.95  # a single shape below this is slower than PyTorch by more than noise


def run(pyconv, torch, settings, show):
    """Race every shape; returns [{"family", "shape", "gflop", "parts": {part: result}}]."""
    rows = []
    for family in shapes.FAMILIES:
        chosen = [text for text in family.shapes if text in shapes.QUICK or not settings.quick]
        for text in chosen:
            if settings.filter not in f"{family.name}: {text}":
                continue
            case = shapes.parse(text)
            results = race.race_case(pyconv, torch, "conv", case, PARTS, settings)
            rows.append({"family": family.name, "shape": text, "gflop": shapes.operations(case) / 1e9,
                         "parts": results})  # fmt: skip
            show(shape_row(rows[-1]))
    return rows


def shape_row(row):
    """One line: ratio and our effective GFLOP/s in each pass."""
    cells = [f"{row['shape']:28}"]
    for part in PARTS:
        result = row["parts"].get(part, {"error": "missing"})
        if "error" in result:
            cells.append(f"{part}: {result['error'][:40]:18}")
        else:
            cells.append(f"{part} {result['ratio']:5.2f}x {row['gflop'] / result['seconds']:5.0f} GFLOP/s")
    return " | ".join(cells)


def summary(rows):
    """Markdown: a family a line, with geometric means, targets and the worst shape; then what is slow."""
    lines = ["| family | forward | grad input | grad weight | worst shape |", "|---|---:|---:|---:|---|"]
    slow = []
    for family in shapes.FAMILIES:
        mine = [row for row in rows if row["family"] == family.name]
        if not mine:
            continue
        cells, worst = [], None
        for part, target in zip(PARTS, family.targets):
            ratios = {}
            for row in mine:
                result = row["parts"].get(part, {})
                if "ratio" in result:
                    ratios[row["shape"]] = result["ratio"]
                    worst = min(worst or (9e9,), (result["ratio"], part, row["shape"]))
            failed = len(mine) - len(ratios)
            mean = race.geometric_mean(list(ratios.values()))
            cells.append(f"{mean:.2f}x ({target}x)" + (f", {failed} failed" if failed else ""))
            slow += [(ratio, part, shape) for shape, ratio in ratios.items() if ratio < SLOW]
        lines.append(f"| {family.name} | {' | '.join(cells)} | "
                     + (f"{worst[0]:.2f}x {worst[1]}, {worst[2]} |" if worst else "|"))  # fmt: skip
    lines += ["", "Geometric means of the ratio, with the ratio to reach in brackets."]
    if slow:
        listed = "; ".join(f"{ratio:.2f}x {part} {shape}" for ratio, part, shape in sorted(slow))
        total = sum(len(row["parts"]) for row in rows)
        lines += ["", f"{len(slow)} of {total} measurements are below {SLOW}x: {listed}."]
    else:
        lines += ["", f"No shape is below {SLOW}x."]
    return "\n".join(lines)


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
            cells += [f"{result['ratio']:.2f}x", f"{speed:.0f}, {percent:.0f} %", f"{best:.0f}"]
        lines.append(f"| {row['shape']} | {' | '.join(cells)} |")
    return "\n".join(lines)
