"""Where a training step's time goes, module by module: what `profile` asks the pyconv worker for."""

import math
import time
from collections import defaultdict

from pyconv import nn

PASSES = ("forward", "backward")


class Tracer:
    """Wraps the forward and backward of every module of a model; times are exclusive of inner modules."""

    def __init__(self, model):
        self.seconds = defaultdict(float)  # (path, pass) -> seconds
        self.shapes = {}  # path -> (input shape, output shape)
        self.wants = {}  # path -> whether the gradient of its input was wanted
        self.modules = dict(model.named_modules())
        self.inner = [0.0]  # time spent in inner calls, for each call in progress
        for path, module in self.modules.items():
            for step in PASSES:
                object.__setattr__(module, step, self.timed(module, path, step))

    def timed(self, module, path, step):
        call = getattr(module, step)

        def wrapper(*arguments):
            wanted = module.needs_input_grad
            self.inner.append(0.0)
            began = time.perf_counter()
            try:
                result = call(*arguments)
            finally:
                elapsed = time.perf_counter() - began
                self.seconds[path, step] += elapsed - self.inner.pop()
                self.inner[-1] += elapsed
            if step == "forward":
                self.shapes[path] = (arguments[0].shape, result.shape)
            else:
                self.wants[path] = wanted
            return result

        return wrapper

    def rows(self, steps):
        """One for each module and pass that took time: kind, path, shapes, seconds, operations, bytes."""
        rows = []
        for (path, step), seconds in self.seconds.items():
            module = self.modules[path]
            leaf = path in self.shapes and not list(module.children())
            row = {"path": path, "kind": type(module).__name__, "pass": step, "seconds": seconds / steps,
                   "operations": 0, "bytes": 0, "input": "", "output": ""}  # fmt: skip
            if leaf:
                row["input"], row["output"] = ("x".join(map(str, shape)) for shape in self.shapes[path])
                row["operations"], row["bytes"] = cost(module, *self.shapes[path], step, self.wants.get(path))
            rows.append(row)
        return rows


def cost(module, input_shape, output_shape, step, wants_input_grad):
    """Least operations (by the direct algorithm) and bytes of a layer's pass."""
    x, y = math.prod(input_shape), math.prod(output_shape)
    weights = sum(parameter.size for parameter in module.parameters())
    operations = 0
    if isinstance(module, nn.Conv2d):
        operations = 2 * y * math.prod(module.weight.shape[1:])
    elif isinstance(module, nn.Linear):
        operations = 2 * y * module.weight.shape[1]
    if operations:
        if step == "forward":
            return operations, 4 * (x + y + weights)
        both = wants_input_grad is not False
        return operations * (1 + both), 4 * ((1 + both) * x + y + 2 * weights)
    if "BatchNorm" in type(module).__name__:  # the statistics need a reading of their own
        return 0, 4 * (2 * x + y if step == "forward" else 2 * x + 2 * y + x)
    return 0, 4 * (x + y if step == "forward" else 2 * x + y)
