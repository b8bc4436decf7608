"""What the PyTorch worker knows: how to make each case's calls, in both memory formats; knows no pyconv."""

import os

import numpy as np
import torch
import torch.nn.functional as TF

from benchmarks import data, ops_torch, torch_models
from benchmarks.ops_torch import traffic  # noqa: F401 (the worker finds it here)

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
torch.manual_seed(0)
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def as_numpy(result):
    return result.detach().float().numpy()


def config():
    return {"torch": torch.__version__, "torch_isa": torch.backends.cpu.get_cpu_capability()}


def prepare(kind, case):
    """{part: {variant: call}} of one case."""
    if kind in ("train", "infer"):
        return KINDS[kind](case)
    calls = {}
    for name, memory_format in FORMATS.items():
        for part, call in KINDS[kind](case, memory_format).items():
            calls.setdefault(part, {})[name] = call
    return calls


def conv(case, memory_format, dtype=torch.float32):
    x, weight, grad = (torch.from_numpy(a).to(dtype, memory_format=memory_format) for a in data.conv(case))
    options = [case["stride"], case["padding"], case["dilation"]]
    groups, convolution_backward = case["groups"], torch.ops.aten.convolution_backward

    def backward(*mask):
        return convolution_backward(grad, x, weight, [0], *options, False, [0, 0], groups, mask)

    def forward():
        with torch.inference_mode():
            return TF.conv2d(x, weight, None, *options, groups)

    return {
        "forward": forward,
        "grad input": lambda: backward(True, False, False)[0],
        "grad weight": lambda: backward(False, True, False)[1],
    }


# ---- What the results would be without rounding, for accuracy.py ----

exact, own = {}, {}


def prepare_exact(case):
    """Compute a convolution's three passes in float64 and in float32."""
    exact.update({part: call() for part, call in conv(case, torch.contiguous_format, torch.float64).items()})
    own.update({part: call() for part, call in conv(case, torch.contiguous_format).items()})
    return {}


def relative_error(result, part):
    return {"error": float((result.double() - exact[part]).norm() / exact[part].norm())}


def own_error(part):
    return relative_error(own[part], part)


def error_of(part, path):
    return relative_error(torch.from_numpy(np.load(path)), part)


def op(case, memory_format):
    return {part: call for part, call in zip(("forward", "backward"), ops_torch.calls(case, memory_format)) if call}


def network(case):
    """The model of a case and its arrays, in the case's memory format."""
    memory_format = FORMATS[case["format"]]
    model = torch_models.MODELS[case["model"]](**case["options"]).to(memory_format=memory_format)
    x, target = (torch.from_numpy(array) for array in data.network(case))
    return model, x.to(memory_format=memory_format), target


def train(case):
    """A step of SGD with momentum; with "bf16" under autocast."""
    model, x, target = network(case)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=case["bf16"]):
            loss = TF.cross_entropy(model(x), target)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        return loss

    return {"step": {"torch": step}}


def infer(case):
    model, x, _ = network(case)
    model.eval()

    def predict():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=case["bf16"]):
            return model(x)

    return {"step": {"torch": predict}}


KINDS = {"conv": conv, "op": op, "train": train, "infer": infer}
