"""What the pyconv worker knows: how to make each case's calls. Never imports torch."""

import time

import numpy as np

import pyconv
import pyconv.functional as F
from benchmarks import data, ops_pyconv
from benchmarks.ops_pyconv import channels_last
from benchmarks.tracing import Tracer
from pyconv import _kernels, nn, optim


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


def prepare(kind, case):
    """{part: {"pyconv": call}} of one case; an operator's on images also with "contiguous" arrays."""
    calls = {part: {"pyconv": call} for part, call in KINDS[kind](case).items()}
    if kind == "conv" or (kind == "op" and len(case["shape"]) == 4):
        for part, call in KINDS[kind](case, np.ascontiguousarray).items():
            calls[part]["contiguous"] = call
    return calls


def conv(case, memory_format=channels_last):
    x, weight, grad = data.conv(case)
    x, grad = memory_format(x), memory_format(grad)
    options = [case["stride"], case["padding"], case["dilation"], case["groups"]]
    calls = {
        "forward": lambda: F.conv2d(x, weight, None, *options),
        "grad input": lambda: F.conv2d_backward(grad, x, weight, *options, needs=(True, False, False))[0],
        "grad weight": lambda: F.conv2d_backward(grad, x, weight, *options, needs=(False, True, False))[1],
    }
    algorithm = case.get("algorithm", "auto")
    return calls if algorithm == "auto" else {part: with_algorithm(algorithm, call) for part, call in calls.items()}


def with_algorithm(algorithm, call):
    def chosen():
        with pyconv.options(conv_algorithm=algorithm):
            return call()

    return chosen


def op(case, memory_format=channels_last):
    if not hasattr(F, case["op"]):
        return {}
    calls = ops_pyconv.calls(case, memory_format)
    return {part: call for part, call in zip(("forward", "backward"), calls) if call}


def network(case):
    """The model of a case and its arrays, channels-last."""
    from pyconv import models

    model = models.create(case["model"], image_size=case["input"][2:], **case["options"])
    x, target = data.network(case)
    return model, channels_last(x), target


def train(case):
    """A step of SGD with momentum."""
    return {"step": training_step(*network(case))}


def training_step(model, x, target):
    model.needs_input_grad = False
    criterion, sgd = nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step():
        loss = criterion(model(x), target)
        sgd.zero_grad()
        model.backward(criterion.backward())
        sgd.step()
        return np.float32(loss)

    return step


def profile(case, steps):
    """Seconds of a step, and of every module in it; see tracing.py."""
    model, x, target = network(case)
    step = training_step(model, x, target)

    def mean():
        step()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - began) / steps

    plain = mean()
    tracer = Tracer(model)
    step()
    tracer.seconds.clear()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return {"step": plain, "traced": (time.perf_counter() - began) / steps, "rows": tracer.rows(steps)}


def infer(case):
    """The model as it would be deployed: optimized for inference, without the one that it was made from."""
    model, x, _ = network(case)
    model = nn.optimize_for_inference(model, copy=False)

    def predict():
        with pyconv.no_grad():
            return model(x)

    return {"step": predict}


KINDS = {"conv": conv, "op": op, "train": train, "infer": infer}
