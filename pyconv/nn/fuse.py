"""Which neighbouring layers run as one, and why the result is the same.

A `Sequential` and a `Residual` ask here for the modules to run in place of their own. Every rule keeps the
result to rounding and the gradients exact. Layers with hooks run by themselves, so that a hook sees what it
would see; ``pyconv.options(fuse=False)`` turns all rules off.
"""

from pyconv.nn.activation import ReLU
from pyconv.nn.conv import Conv2d
from pyconv.nn.linear import Linear
from pyconv.nn.module import Module, is_grad_enabled
from pyconv.nn.norm import BatchNorm1d, BatchNorm2d
from pyconv.nn.pooling import MaxPool2d

# Layers whose forward takes `relu` and applies it as it stores its result.
RECTIFYING = (Conv2d, Linear, BatchNorm1d, BatchNorm2d)


class WithReLU(Module):
    """A layer and the ReLU behind it, in one pass over the output."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, input):
        return self.layer(input, True)

    def backward(self, grad_output):
        if self.needs_input_grad:
            return self.layer.backward(grad_output)
        return self.layer._backward_parameters(grad_output)


def has_hooks(module):
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _relu_behind_pool(chain, i):
    """relu, pool -> pool, relu: the maximum commutes with ReLU, whose backward then sees fewer pixels.

    Where all of a window is negative, either order gives zero and passes no gradient. Batch norm's ReLU
    costs nothing in its own passes and stays with it.
    """
    relu, pool = chain[i : i + 2]
    before = chain[i - 1] if i else None
    if type(relu) is ReLU and type(pool) is MaxPool2d and not pool.return_indices and type(before) is Conv2d:
        return [pool, relu]
    return None


def _relu_in_store(chain, i):
    """layer, relu -> one pass: the layer stores max(y, 0), which also tells where the gradient passes."""
    layer, relu = chain[i : i + 2]
    if type(relu) is ReLU and type(layer) in RECTIFYING:
        return [WithReLU(layer)]
    return None


def fused(chain):
    """The modules to run in place of `chain`."""
    chain = list(chain)
    rules = [_relu_in_store]
    if is_grad_enabled():
        rules.insert(0, _relu_behind_pool)
    for rule in rules:
        i = 0
        while i + 1 < len(chain):
            if not any(has_hooks(module) for module in chain[i : i + 2]):
                replacement = rule(chain, i)
                if replacement:
                    chain[i : i + 2] = replacement
            i += 1
    return chain


def adding_norm(main, activation):
    """The batch norm at the end of a residual's main branch, if it can add the shortcut as it stores."""
    if len(main) == 0 or has_hooks(main):
        return None
    norm = main[-1]
    rectifies = activation is None or (type(activation) is ReLU and not has_hooks(activation))
    return norm if type(norm) is BatchNorm2d and rectifies and not has_hooks(norm) else None
