"""Train and run convolutional networks on a CPU, with NumPy arrays."""

from pyconv import data, functional, nn, optim
from pyconv.config import empty_cache, get_num_threads, options, set_num_threads, show_config
from pyconv.functional.conv import explain_conv2d
from pyconv.nn.grad_mode import is_grad_enabled, no_grad
from pyconv.random import default_generator, manual_seed
from pyconv.trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "Trainer",
    "data",
    "default_generator",
    "empty_cache",
    "explain_conv2d",
    "functional",
    "get_num_threads",
    "is_grad_enabled",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "options",
    "set_num_threads",
    "show_config",
]
