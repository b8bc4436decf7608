"""Layers, containers and losses, with the names, arguments and ``state_dict`` keys of ``torch.nn``."""

from pyconv.nn.module import Module, Parameter

__all__ = ["Module", "Parameter"]
