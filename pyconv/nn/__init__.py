"""Layers, containers and losses, with the names, arguments and ``state_dict`` keys of ``torch.nn``."""

from pyconv.nn import init, utils
from pyconv.nn._summary import summary
from pyconv.nn.activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSoftmax,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from pyconv.nn.container import Composed, Concat, ModuleList, Residual, Sequential
from pyconv.nn.conv import Conv2d, ConvTranspose2d
from pyconv.nn.linear import Identity, Linear
from pyconv.nn.loss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from pyconv.nn.module import Module, Parameter

__all__ = [
    "BCEWithLogitsLoss",
    "CELU",
    "Composed",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "ELU",
    "GELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Identity",
    "L1Loss",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "Mish",
    "Module",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Residual",
    "SELU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
    "init",
    "summary",
    "utils",
]
