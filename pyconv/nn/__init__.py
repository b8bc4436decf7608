"""Layers, containers and losses, with the names, arguments and ``state_dict`` keys of ``torch.nn``."""

from pyconv.nn import init, utils
from pyconv.nn._summary import summary
from pyconv.nn.container import Composed, Concat, ModuleList, Residual, Sequential
from pyconv.nn.conv import Conv2d, ConvTranspose2d
from pyconv.nn.linear import Identity, Linear
from pyconv.nn.module import Module, Parameter

__all__ = [
    "Composed",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "Identity",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "Residual",
    "Sequential",
    "summary",
    "init",
    "utils",
]
