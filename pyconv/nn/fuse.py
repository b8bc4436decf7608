"""Which neighbouring layers run as one, and why the result is the same.

A `Sequential` and a `Residual` ask here for the modules to run in place of their own. Every rule keeps the
result to rounding and the gradients exact. Layers with hooks run by themselves, so that a hook sees what it
would see; ``pyconv.options(fuse=False)`` turns all rules off.
"""

from pyconv.nn.activation import ReLU, ReLU6
from pyconv.nn.conv import Conv2d
from pyconv.nn.folded import ConvNorm, PreparedConv
from pyconv.nn.grad_mode import is_grad_enabled
from pyconv.nn.linear import Linear
from pyconv.nn.module import Module
from pyconv.nn.norm import BatchNorm1d, BatchNorm2d
from pyconv.nn.pooling import MaxPool2d

# Layers whose forward takes `relu` and applies it as it stores its result.
RECTIFYING = (Conv2d, Linear, BatchNorm1d, BatchNorm2d, ConvNorm, PreparedConv, MaxPool2d)
CLAMPING = (BatchNorm1d, BatchNorm2d, ConvNorm, PreparedConv)  # and these can cut it off at 6

WORTH_REMAKING = 2 << 20  # bytes between norm and convolution: less than this is kept


class WithReLU(Module):
    """A layer and the ReLU behind it, in one pass over the output; with a ceiling the ReLU is ReLU6."""

    def __init__(self, layer, ceiling=None):
        super().__init__()
        self.layer, self.ceiling = layer, ceiling

    def forward(self, input):
        if self.ceiling is None:
            return self.layer(input, True)
        return self.layer(input, True, None, self.ceiling)

    def backward(self, grad_output):
        if self.needs_input_grad:
            return self.layer.backward(grad_output)
        return self.layer._backward_parameters(grad_output)


class NormThenConv(Module):
    """Batch norm, rectified or not, and the convolution behind it, without keeping what is between them.

    The convolution's backward needs its input, which is the norm's output, and which one pass over the norm's
    input makes once more, to the same bits. ResNet-18 with 64 images of 32 x 32 needs 60 MB less for it, and 1 % more
    time.
    """

    def __init__(self, norm, conv):
        super().__init__()
        self.norm, self.conv = norm, conv

    def forward(self, input, relu=False):
        output = self.norm(input)
        layer = self.norm.layer if type(self.norm) is WithReLU else self.norm
        remake = layer.remake() if output.nbytes >= WORTH_REMAKING else None
        return self.conv(output, relu, remake)

    def backward(self, grad_output):
        if self.needs_input_grad:
            return self.norm.backward(self.conv.backward(grad_output))
        if self.norm._is_trainable():
            return self.norm._backward_parameters(self.conv.backward(grad_output))
        self.norm._forget()
        return self.conv._backward_parameters(grad_output)


def has_hooks(module):
    return bool(module._forward_hooks or module._forward_pre_hooks)


def hooked(modules):
    """Those with hooks; asked at every forward, so in one call for all."""
    return [module for module in modules if module._forward_hooks or module._forward_pre_hooks]


def _relu_behind_pool(chain, i):
    """relu, pool -> pool, relu: the maximum commutes with ReLU, which the pooling then does in its own pass.

    Where all of a window is negative, either order gives zero and passes no gradient. Batch norm's ReLU
    costs nothing in its own passes and stays with it.
    """
    relu, pool = chain[i : i + 2]
    before = chain[i - 1] if i else None
    if type(relu) is ReLU and type(pool) is MaxPool2d and not pool.return_indices and type(before) is Conv2d:
        return [pool, relu]
    return None


def _norm_in_conv(chain, i):
    """conv, norm -> one convolution with other weights."""
    conv, norm = chain[i : i + 2]
    if type(conv) is Conv2d and conv.padding_mode == "zeros" and type(norm) is BatchNorm2d:
        return [ConvNorm(conv, norm)]
    return None


def _relu_in_store(chain, i):
    """layer, relu -> one pass: the layer stores max(y, 0), which also tells where the gradient passes."""
    layer, relu = chain[i : i + 2]
    if type(relu) is ReLU and type(layer) in RECTIFYING and not getattr(layer, "return_indices", False):
        return [WithReLU(layer)]
    if type(relu) is ReLU6 and type(layer) in CLAMPING:
        return [WithReLU(layer, 6.0)]
    return None


def _norm_made_twice(chain, i):
    """norm, conv -> both, without keeping what is between them."""
    norm, conv = chain[i : i + 2]
    layer = norm.layer if type(norm) is WithReLU else norm
    if type(layer) is BatchNorm2d and type(conv) is Conv2d and conv.padding_mode == "zeros":
        return [NormThenConv(norm, conv)]
    return None


def fused(chain):
    """The modules to run in place of `chain`."""
    chain = list(chain)
    if is_grad_enabled():
        rules = [_relu_behind_pool, _relu_in_store, _norm_made_twice]
    else:
        rules = [_norm_in_conv, _relu_in_store]
    for rule in rules:
        i = 0
        while i + 1 < len(chain):
            if not any(has_hooks(module) for module in chain[i : i + 2]):
                replacement = rule(chain, i)
                if replacement:
                    chain[i : i + 2] = replacement
            i += 1
    return chain


def adds_residual(module):
    """Whether a module's backward takes what is to be added to the gradient of its input."""
    return type(module) is Conv2d


def split_residual(main, activation, shortcut=()):
    """The layers of a residual's main branch without the last, and that one, if it can add the shortcut
    and rectify as it stores its result: a batch norm, or a convolution that has it folded in. Else None.

    The last layer then runs after the modules of the shortcut, so it must not be one of them: a batch norm's
    statistics depend on the order of its calls.
    """
    chain = list(main)
    if has_hooks(main) or not chain or type(chain[-1]) not in (BatchNorm2d, PreparedConv) or has_hooks(chain[-1]):
        return None
    if chain[-1] in shortcut:
        return None
    if activation is not None and (type(activation) is not ReLU or has_hooks(activation)):
        return None
    if not is_grad_enabled() and len(chain) > 1 and not has_hooks(chain[-2]):
        folded = _norm_in_conv(chain, len(chain) - 2)
        if folded:
            return chain[:-2], folded[0]
    return chain[:-1], chain[-1]
