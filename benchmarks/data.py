"""The arrays of a case: the same in every process, whichever library it knows."""

import numpy as np


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def conv_output(case):
    """Height and width of a convolution's output."""

    def along(extent, kernel, i):
        reach = case["dilation"][i] * (case[kernel] - 1) + 1
        return (case[extent] + 2 * case["padding"][i] - reach) // case["stride"][i] + 1

    return along("h", "r", 0), along("w", "s", 1)


def conv(case):
    """Input, weight and output gradient of a convolution, in NCHW and OIHW; case["data"] says what is in them."""
    x = normal(case["n"], case["c"], case["h"], case["w"])
    weight = normal(case["k"], case["c"] // case["groups"], case["r"], case["s"], seed=1)
    grad = normal(case["n"], case["k"], *conv_output(case), seed=2)
    kind = case.get("data", "normal")
    if kind == "relu":
        return np.maximum(x, 0), weight, np.maximum(grad, 0)
    scale = np.float32({"normal": 1, "tiny": 1e-4, "huge": 1e4}[kind])
    return scale * x, weight, scale * grad


def labels(count, classes):
    return np.random.default_rng(1).integers(0, classes, count)


def network(case):
    """A batch of images and their labels."""
    return normal(*case["input"]), labels(case["input"][0], case["options"]["num_classes"])
