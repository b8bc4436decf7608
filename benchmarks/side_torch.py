"""What the PyTorch worker knows: how to make each case's calls, in both memory formats; knows no pyconv."""

import os

import torch

from benchmarks import data

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
torch.manual_seed(0)
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def as_numpy(result):
    return result.detach().float().numpy()


def config():
    return {"torch": torch.__version__, "torch_isa": torch.backends.cpu.get_cpu_capability()}


def prepare(kind, case):
    """{part: {variant: call}} of one case."""
    calls = {}
    for name, memory_format in FORMATS.items():
        for part, call in KINDS[kind](case, memory_format).items():
            calls.setdefault(part, {})[name] = call
    return calls


def conv(case, memory_format):
    x, weight, grad = (torch.from_numpy(a).to(memory_format=memory_format) for a in data.conv(case))
    options = [case["stride"], case["padding"], case["dilation"]]
    groups, convolution_backward = case["groups"], torch.ops.aten.convolution_backward

    def backward(*mask):
        return convolution_backward(grad, x, weight, [0], *options, False, [0, 0], groups, mask)

    def forward():
        with torch.inference_mode():
            return torch.nn.functional.conv2d(x, weight, None, *options, groups)

    return {
        "forward": forward,
        "grad input": lambda: backward(True, False, False)[0],
        "grad weight": lambda: backward(False, True, False)[1],
    }


KINDS = {"conv": conv}
