"""Train and run convolutional networks on a CPU, with NumPy arrays."""

from pyconv.config import empty_cache, get_num_threads, set_num_threads, show_config

__version__ = "0.1.0"
__all__ = ["empty_cache", "get_num_threads", "set_num_threads", "show_config"]
