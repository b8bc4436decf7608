"""`python -m benchmarks ops`: everything but convolution, forward and backward; bound by memory."""

from benchmarks import race

SHAPES = [[64, 64, 32, 32], [1, 64, 224, 224]]
PARTS = ("forward", "backward")
TARGET = 1.0
# (operator, its options); what the backward needs besides is known to the two sides
OPERATORS = [
    ("relu", {}),
    ("relu6", {}),
    ("leaky_relu", {}),
    ("prelu", {}),
    ("elu", {}),
    ("selu", {}),
    ("celu", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("mish", {}),
    ("hardswish", {}),
    ("hardsigmoid", {}),
    ("hardtanh", {}),
    ("softplus", {}),
    ("softsign", {}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("softmax", {"dim": 1}),
    ("log_softmax", {"dim": 1}),
    ("max_pool2d", {"kernel_size": 2}),
    ("max_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1}),
    ("max_unpool2d", {"kernel_size": 2}),
    ("avg_pool2d", {"kernel_size": 2}),
    ("avg_pool2d", {"kernel_size": 3, "stride": 1, "padding": 1}),
    ("adaptive_avg_pool2d", {"output_size": 1}),
    ("adaptive_avg_pool2d", {"output_size": 7}),
    ("adaptive_max_pool2d", {"output_size": 1}),
    ("adaptive_max_pool2d", {"output_size": 7}),
    ("batch_norm", {}),
    ("group_norm", {"num_groups": 8}),
    ("instance_norm", {}),
    ("layer_norm", {}),
    ("local_response_norm", {"size": 5}),
    ("dropout", {"p": 0.1}),
    ("add", {}),
    ("cat", {}),
    ("pad", {"pad": [1, 1, 1, 1]}),
    ("pad", {"pad": [1, 1, 1, 1], "mode": "reflect"}),
    ("interpolate", {"scale_factor": 2, "mode": "nearest"}),
    ("interpolate", {"scale_factor": 2, "mode": "bilinear"}),
    ("interpolate", {"scale_factor": 0.5, "mode": "bilinear"}),
    ("pixel_shuffle", {"upscale_factor": 2}),
    ("pixel_unshuffle", {"downscale_factor": 2}),
    ("mse_loss", {}),
    ("l1_loss", {}),
    ("smooth_l1_loss", {}),
    ("binary_cross_entropy_with_logits", {}),
]
OTHERS = [
    {"op": "linear", "shape": [64, 3136], "options": {"out_features": 128}},
    {"op": "linear", "shape": [64, 4096], "options": {"out_features": 4096}},
    {"op": "linear", "shape": [1, 4096], "options": {"out_features": 1000}},
    {"op": "cross_entropy", "shape": [64, 10], "options": {}},
    {"op": "cross_entropy", "shape": [256, 1000], "options": {}},
    {"op": "cross_entropy", "shape": [4, 21, 128, 128], "options": {}},
    {"op": "nll_loss", "shape": [256, 1000], "options": {}},
    {"op": "nll_loss", "shape": [4, 21, 128, 128], "options": {}},
]


def cases():
    listed = [{"op": op, "shape": shape, "options": options} for op, options in OPERATORS for shape in SHAPES]
    for case in listed + OTHERS:
        options = "".join(f" {name}={value}" for name, value in case["options"].items())
        yield case | {"label": f"{case['op']}{options} {'x'.join(map(str, case['shape']))}"}


def run(pyconv, torch, settings, show):
    """Race every operator; returns [{"op", "shape", "label", "parts": {part: result}, "gbytes"}]."""
    chosen = [case for case in cases()
              if settings.filter in case["label"] and not (settings.quick and case["shape"] == SHAPES[1])]  # fmt: skip
    rows = [case | {"traffic": torch.ask("traffic", case=case)} for case in chosen]

    def finish(i, parts):
        rows[i]["parts"] = parts
        show(row_text(rows[i]))

    race.race_cases("op", chosen, PARTS, settings, finish)
    return rows


def _rate(row, part):
    return row["traffic"][part] / row["parts"][part]["seconds"] / 1e9


def _ratios(result):
    """The ratio with channels-last arrays, and with contiguous ones."""
    contiguous = f", {result['contiguous']:.2f}x" if "contiguous" in result else ""
    return f"{result['ratio']:.2f}x{contiguous}"


def row_text(row):
    cells = [f"{row['label']:60}"]
    for part, result in row["parts"].items():
        cells.append(f"{part}: {result['error'][:70]}" if "error" in result else
                     f"{part} {_ratios(result):>14} {_rate(row, part):6.1f} GB/s")  # fmt: skip
    return " | ".join(cells)


def summary(rows):
    """Markdown: geometric means and what is slower than PyTorch."""
    lines = []
    for part in PARTS:
        failed = sum("error" in row["parts"].get(part, {}) for row in rows)
        for name, key in (("channels-last", "ratio"), ("contiguous", "contiguous")):
            ratios = {row["label"]: row["parts"][part][key] for row in rows if key in row["parts"].get(part, {})}
            if not ratios and not failed:
                continue
            slow = "; ".join(f"{ratio:.2f}x {label}" for label, ratio in ratios.items() if ratio < 0.95 * TARGET)
            mean = race.geometric_mean(list(ratios.values()))
            lines.append(f"* {part}, {name} arrays: geometric mean {mean:.2f}x over {len(ratios)}"
                         f"{f', {failed} failed' if failed else ''}; below 0.95x: {slow or 'none'}.")  # fmt: skip
    return "\n".join(lines)


def details(rows, machine):
    """Markdown: every operator, with channels-last and with contiguous arrays (against PyTorch's best of both),
    and the memory traffic it can't avoid over the time that the former took."""
    lines = ["| operator | " + " | ".join(f"{part} | GB/s (of {machine['gbytes']:.0f})" for part in PARTS) + " |",
             "|---|" + "---:|" * 4]  # fmt: skip
    for row in rows:
        cells = []
        for part in PARTS:
            result = row["parts"].get(part)
            if result is None:
                cells += ["", ""]
            elif "error" in result:
                cells += ["failed", ""]
            else:
                cells += [_ratios(result), f"{_rate(row, part):.1f}"]
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)
