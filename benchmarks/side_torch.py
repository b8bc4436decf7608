"""What the PyTorch worker knows: how to make each case's calls, in both memory formats; knows no pyconv."""

import os
from collections import namedtuple
from functools import partial

import numpy as np
import torch
import torch.nn.functional as TF

from benchmarks import data, torch_models

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
    """Any operator through autograd: its forward, and the gradients of its floating inputs."""
    forward = operator(case, memory_format)
    output = forward.call(*forward.inputs)
    grad = data.normal(*output.shape, seed=2) if output.ndim else np.float32(1)
    grad = torch.as_tensor(grad)
    if output.ndim == 4:
        grad = grad.to(memory_format=memory_format)

    def inference():
        with torch.inference_mode():
            return forward.call(*forward.inputs)

    def backward():
        return torch.autograd.grad(output, forward.inputs, grad, retain_graph=True)[0]

    return {"forward": inference, "backward": backward}


def traffic(case):
    """Bytes that the operator must read and write at least."""
    forward = operator(case, torch.contiguous_format)
    read, written = sum(x.numel() for x in forward.inputs), forward.call(*forward.inputs).numel()
    return {"forward": 4 * (read + written), "backward": 4 * (2 * read + written)}


Operator = namedtuple("Operator", "call inputs")  # a function, and the tensors it is differentiable in


def operator(case, memory_format):
    x = torch.from_numpy(data.normal(*case["shape"]))
    x = (x.to(memory_format=memory_format) if x.ndim == 4 else x).requires_grad_()
    name, options = case["op"], case["options"]
    channels = case["shape"][1]
    if name == "linear":
        weight = torch.from_numpy(data.normal(options["out_features"], channels, seed=1)).requires_grad_()
        return Operator(TF.linear, [x, weight, torch.zeros(options["out_features"], requires_grad=True)])
    if name == "cross_entropy":
        target = torch.from_numpy(data.labels(*case["shape"]))
        return Operator(lambda x: TF.cross_entropy(x, target), [x])
    if name == "max_pool2d":
        return Operator(lambda x: TF.max_pool2d(x, **options, return_indices=True)[0], [x])
    if name in ("batch_norm", "group_norm"):
        weight, bias = torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)
        if name == "group_norm":
            return Operator(lambda x, w, b: TF.group_norm(x, options["num_groups"], w, b), [x, weight, bias])
        mean, variance = torch.zeros(channels), torch.ones(channels)
        return Operator(lambda x, w, b: TF.batch_norm(x, mean, variance, w, b, training=True), [x, weight, bias])
    if name == "layer_norm":
        return Operator(lambda x: TF.layer_norm(x, x.shape[1:]), [x])
    return Operator(partial(getattr(TF, name), **options), [x])


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
