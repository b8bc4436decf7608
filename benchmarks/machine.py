"""The machine, described by what it can do: features, caches, cores, and its measured limits."""

import os
import platform
from pathlib import Path

FEATURES = ["avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
            "avx512_fp16", "avx_vnni", "amx_bf16", "asimd", "bf16"]  # fmt: skip


def cpus():
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _features():
    try:
        lines = Path("/proc/cpuinfo").read_text().lower().splitlines()
    except OSError:
        return []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "features"))), [])
    return [name for name in FEATURES if name in flags]


def has_bf16():
    """Whether the processor multiplies bf16; where it does not, libraries emulate that."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(_features()))


def _caches():
    found = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (cache / "type").read_text().strip() != "Instruction":
            found["L" + (cache / "level").read_text().strip()] = (cache / "size").read_text().strip()
    return found


def describe(pyconv, torch):
    """What the results depend on, measured limits included, as a dictionary for the JSON file."""
    return {
        "architecture": platform.machine(),
        "cpus": cpus(),
        "features": _features(),
        "caches": _caches(),
        "system": platform.system(),
        "python": platform.python_version(),
        **pyconv.ask("config"),
        **torch.ask("config"),
        **pyconv.ask("peaks"),
    }


def kind(machine):
    """The machine's best instruction set, or its architecture: the folder that its results go to."""
    features = machine["features"]
    return next((isa for isa, feature in {"avx512": "avx512f", "avx2": "avx2"}.items() if feature in features),
                machine["architecture"])  # fmt: skip


def line(machine):
    """The same in a line or two of text."""
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    return (
        f"{machine['architecture']}, {machine['cpus']} CPUs ({' '.join(machine['features'])}), {caches}; "
        f"{machine['threads']} threads, kernels: {machine['isa']}; measured FMA peak "
        f"{machine['gflops']:.0f} GFLOP/s, memory {machine['gbytes']:.1f} GB/s; "
        f"pyconv {machine['pyconv']}, PyTorch {machine['torch']} ({machine['torch_isa']})"
    )
