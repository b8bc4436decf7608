"""`python -m benchmarks train` and `infer`: whole networks, speed and memory, each in new processes every round.

For inference both have their weights ready before the first image: ours by `nn.optimize_for_inference`, PyTorch's
in the memory format that is the better one for it. PyTorch with bf16 autocast takes part where the processor has
instructions for it; elsewhere it is emulated, ten to forty times slower than fp32.
"""

from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks import machine, race


def case(model, text, target, classes=10, **options):
    """text: the input as batch x channels x height x width; target: the ratio to reach."""
    shape = [int(part) for part in text.split("x")]
    options |= {"num_classes": classes, "in_channels": shape[1]}
    return {"model": model, "input": shape, "options": options, "target": target, "label": f"{model} {text}"}


TRAIN = [
    case("lenet", "64x1x28x28", 2.2),
    case("lenet5", "64x1x28x28", 2.5),
    case("lenet5", "1x1x28x28", 3.0),
    case("vgg_small", "64x3x32x32", 2.5),
    case("resnet18", "64x3x32x32", 2.3, stem="cifar"),
    case("resnet50", "8x3x224x224", 1.3, 1000, stem="imagenet"),
    case("mobilenet_v2", "16x3x96x96", 1.3, 1000),
]
INFER = [
    case("vgg16", "1x3x224x224", 2.0, 1000),
    case("vgg16", "8x3x224x224", 2.0, 1000),
    case("resnet18", "1x3x224x224", 2.0, 1000, stem="imagenet"),
    case("resnet18", "8x3x224x224", 2.0, 1000, stem="imagenet"),
    case("mobilenet_v2", "1x3x224x224", 1.2, 1000),
    case("mobilenet_v2", "8x3x224x224", 1.2, 1000),
]
CASES = {"train": TRAIN, "infer": INFER}
# name: what makes PyTorch's variant; each runs in a process of its own, so that its memory is known
VARIANTS = {
    "contiguous": {"format": "contiguous", "bf16": False},
    "channels last": {"format": "channels last", "bf16": False},
    "bf16 contiguous": {"format": "contiguous", "bf16": True},
    "bf16 channels last": {"format": "channels last", "bf16": True},
}


def variants():
    """Those of VARIANTS that this processor has instructions for."""
    return {name: each for name, each in VARIANTS.items() if machine.has_bf16() or not each["bf16"]}


TURNS = 3  # of each contender in a round: making the networks takes longer


def run(kind, pyconv, torch, settings, show):
    """Race every network; returns rows of ratios to fp32 and to bf16 autocast, times and peak memory.

    Each round goes through all networks, as `race.race_cases` does, and each network has processes of its own.
    """
    cases = [each for each in CASES[kind]
             if settings.filter in each["label"] and not (settings.quick and each["input"][2] > 32)]  # fmt: skip
    raced = [{"times": {}, "memory": {}} for _ in cases]
    rows = []
    for round in range(settings.rounds):
        for each, so_far in zip(cases, raced):
            if "error" not in so_far:
                try:
                    race_network(kind, each, settings, round, so_far)
                except RuntimeError as error:
                    so_far["error"] = str(error)
            if round == settings.rounds - 1:
                rows.append(each | judge(so_far))
                show(row_text(rows[-1]))
    return rows


def race_network(kind, each, settings, round, raced):
    """One round of a network; adds to raced: {"times", "memory": {contender: [seconds, bytes]}}."""
    with ExitStack() as stack:
        workers = {"pyconv": stack.enter_context(race.Worker("pyconv", settings))}
        workers["pyconv"].ask("prepare", kind=kind, case=each)
        for name, variant in variants().items():
            workers[name] = stack.enter_context(race.Worker("torch", settings))
            workers[name].ask("prepare", kind=kind, case=each | variant)
        contenders = {name: (worker, "pyconv" if name == "pyconv" else "torch") for name, worker in workers.items()}
        for turn in range(TURNS):
            race.add_round(raced["times"], race.time_in_turn(contenders, "step", settings, round + turn))
        race.add_round(raced["memory"], {name: worker.ask("memory")["peak_bytes"] for name, worker in workers.items()})


def judge(raced):
    """The row of a network; memory is the median of the rounds' peaks."""
    if "error" in raced:
        return {"error": raced["error"]}
    times, memory = raced["times"], {name: median(peaks) for name, peaks in raced["memory"].items()}
    fp32 = race.compare(times, others=["contiguous", "channels last"])
    best = min(fp32["others"], key=fp32["others"].get)
    row = {"ratio": fp32["ratio"], "seconds": fp32["seconds"], "torch": best, "torch_seconds": fp32["others"],
           "memory": memory, "memory_ratio": memory["pyconv"] / memory[best]}  # fmt: skip
    if "bf16 contiguous" in times:
        bf16 = race.compare(times, others=["bf16 contiguous", "bf16 channels last"])
        row["bf16_ratio"] = bf16["ratio"]
        row["torch_seconds"] |= bf16["others"]
    return row


def bf16_text(row):
    return f"{row['bf16_ratio']:.2f}x" if "bf16_ratio" in row else "no"


def row_text(row):
    if "error" in row:
        return f"{row['label']}: {row['error']}"
    batch, best = row["input"][0], row["torch_seconds"][row["torch"]]
    return (
        f"{row['label']:28} {row['ratio']:5.2f}x (to reach {row['target']}x), "
        f"{batch / row['seconds']:.0f} images/s beside {batch / best:.0f} ({row['torch']}); "
        f"{bf16_text(row)} bf16; {row['memory']['pyconv'] / 1e6:.0f} MB, {row['memory_ratio']:.0%} of PyTorch's"
    )


def summary(rows):
    """Markdown: a network a line."""
    lines = ["| network, input | ratio (to reach) | images/s | PyTorch's images/s | ratio to bf16 autocast "
             "| peak memory | PyTorch's |", "|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['label']} | {row['error']} | | | | | |")
            continue
        batch, best = row["input"][0], row["torch_seconds"][row["torch"]]
        lines.append(
            f"| {row['label']} | {row['ratio']:.2f}x ({row['target']}x) | {batch / row['seconds']:.0f} "
            f"| {batch / best:.0f}, {row['torch']} | {bf16_text(row)} | {row['memory']['pyconv'] / 1e6:.0f} MB "
            f"| {row['memory'][row['torch']] / 1e6:.0f} MB, ours {row['memory_ratio']:.0%} |"
        )
    return "\n".join(lines)


def details(rows, machine):
    """Markdown: milliseconds of every contender."""
    raced = [name for name in VARIANTS if any(name in row.get("torch_seconds", {}) for row in rows)]
    lines = ["| network, input | pyconv | " + " | ".join(raced) + " |", "|---|" + "---:|" * (1 + len(raced))]
    for row in rows:
        if "error" not in row:
            times = [row["seconds"], *(row["torch_seconds"][name] for name in raced)]
            lines.append(f"| {row['label']} | " + " | ".join(f"{1e3 * seconds:.2f} ms" for seconds in times) + " |")
    return "\n".join(lines)


class Part:
    """One of the two, as the command line and the report see a part."""

    def __init__(self, kind):
        self.run = partial(run, kind)
        self.summary, self.details = summary, details


train, infer = Part("train"), Part("infer")
