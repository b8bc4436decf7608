"""What the pyconv worker knows: how to make each case's calls. Never imports torch."""

import time

import numpy as np

import pyconv
import pyconv.functional as F
from benchmarks import data
from pyconv import _kernels


def as_numpy(result):
    return result


def config():
    return {"pyconv": pyconv.__version__, "isa": _kernels.get_isa(), "threads": pyconv.get_num_threads(),
            "numpy": np.__version__}  # fmt: skip


def peaks(attempts=8):
    """The best of a few attempts at pure arithmetic (GFLOP/s) and at streaming (GB/s), in float32."""
    result, x, y = np.zeros(256, np.float32), np.ones(1 << 24, np.float32), np.ones(1 << 24, np.float32)
    gflops = gbytes = 0.0
    for _ in range(attempts):
        began = time.perf_counter()
        operations = _kernels.peak_arithmetic(20_000, result)
        gflops = max(gflops, operations / (time.perf_counter() - began) / 1e9)
        began = time.perf_counter()
        _kernels.peak_memory(1e-3, x, y)
        gbytes = max(gbytes, 3 * x.nbytes / (time.perf_counter() - began) / 1e9)
    return {"gflops": gflops, "gbytes": gbytes}


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def prepare(kind, case):
    """{part: {"pyconv": call}} of one case."""
    return {part: {"pyconv": call} for part, call in KINDS[kind](case).items()}


def conv(case):
    x, weight, grad = data.conv(case)
    x, grad = channels_last(x), channels_last(grad)
    options = [case["stride"], case["padding"], case["dilation"], case["groups"]]
    return {
        "forward": lambda: F.conv2d(x, weight, None, *options),
        "grad input": lambda: F.conv2d_backward(grad, x, weight, *options, needs=(True, False, False))[0],
        "grad weight": lambda: F.conv2d_backward(grad, x, weight, *options, needs=(False, True, False))[1],
    }


KINDS = {"conv": conv}
