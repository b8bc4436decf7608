"""PyTorch's side of the race of operators: each case as a function of tensors. Knows no pyconv."""

from collections import namedtuple
from functools import partial

import numpy as np
import torch
import torch.nn.functional as TF

from benchmarks import data

Operator = namedtuple("Operator", "call inputs")  # a function, and the tensors it is differentiable in


def leaf(array, memory_format=torch.contiguous_format):
    tensor = torch.from_numpy(array)
    return (tensor.to(memory_format=memory_format) if tensor.ndim == 4 else tensor).requires_grad_()


def operator(case, memory_format):
    if case["op"] == "nll_loss":
        memory_format = torch.contiguous_format  # its backward knows no other
    x = leaf(data.normal(*case["shape"]), memory_format)
    name, options, shape = case["op"], case["options"], case["shape"]
    channels = shape[1]
    ones, zeros = torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)
    match name:
        case "linear":
            weight = leaf(data.normal(options["out_features"], channels, seed=1))
            return Operator(TF.linear, [x, weight, torch.zeros(options["out_features"], requires_grad=True)])
        case "cross_entropy" | "nll_loss":
            target = torch.from_numpy(data.labels(x.numel() // channels, channels)).reshape(shape[:1] + shape[2:])
            return Operator(lambda x: getattr(TF, name)(x, target), [x])
        case "mse_loss" | "l1_loss" | "smooth_l1_loss" | "binary_cross_entropy_with_logits":
            target = leaf(data.normal(*shape, seed=2), memory_format).detach()
            return Operator(lambda x: getattr(TF, name)(x, target), [x])
        case "max_pool2d" | "adaptive_max_pool2d":
            return Operator(lambda x: getattr(TF, name)(x, **options, return_indices=True)[0], [x])
        case "max_unpool2d":
            pooled, indices = TF.max_pool2d(x.detach(), **options, return_indices=True)
            return Operator(lambda x: TF.max_unpool2d(x, indices, **options), [pooled.requires_grad_()])
        case "prelu":
            return Operator(TF.prelu, [x, torch.full((channels,), 0.25, requires_grad=True)])
        case "add":
            return Operator(lambda x: x + x, [x])
        case "cat":
            other = leaf(data.normal(*shape, seed=1), memory_format)
            return Operator(lambda x, y: torch.cat([x, y], 1), [x, other])
        case "group_norm":
            return Operator(lambda x, w, b: TF.group_norm(x, options["num_groups"], w, b), [x, ones, zeros])
        case "instance_norm":
            return Operator(lambda x, w, b: TF.instance_norm(x, None, None, w, b), [x, ones, zeros])
        case "batch_norm":
            mean, var = torch.zeros(channels), torch.ones(channels)
            return Operator(lambda x, w, b: TF.batch_norm(x, mean, var, w, b, training=True), [x, ones, zeros])
        case "layer_norm":
            weight, bias = torch.ones(shape[1:], requires_grad=True), torch.zeros(shape[1:], requires_grad=True)
            return Operator(lambda x, w, b: TF.layer_norm(x, x.shape[1:], w, b), [x, weight, bias])
    return Operator(partial(getattr(TF, name), **options), [x])


def calls(case, memory_format):
    """(forward, backward): through autograd, the gradients of the floating inputs."""
    call, inputs = operator(case, memory_format)
    output = call(*inputs)
    grad = torch.as_tensor(data.normal(*output.shape, seed=2) if output.ndim else np.float32(1))
    if output.ndim == 4:
        grad = grad.to(memory_format=memory_format)

    def inference():
        with torch.inference_mode():
            return call(*inputs)

    if case["op"] in ("add", "cat"):  # whose gradients are views of the output's
        return inference, None
    return inference, lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True)[0]


def traffic(case):
    """Bytes that the operator must read and write at least."""
    forward = operator(case, torch.contiguous_format)
    read, written = sum(x.numel() for x in forward.inputs), forward.call(*forward.inputs).numel()
    return {"forward": 4 * (read + written), "backward": 4 * (2 * read + written)}
