"""Threads, instruction set and memory: what this process uses, and how to change it."""

import os
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from pyconv import _kernels


def _cpu_quota():
    """How many CPUs the container's cgroup allows, or None where it sets no limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()[:2]
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return None


def _default_num_threads():
    """OMP_NUM_THREADS where it is set, otherwise the CPUs that this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, _cpu_quota() or cpus)


def set_num_threads(threads):
    """Use this many threads in every kernel from now on; results do not depend on it.

    Parameters
    ----------
    threads : int
        At least 1.
    """
    if isinstance(threads, bool) or not hasattr(threads, "__index__"):
        raise TypeError(f"set_num_threads: threads must be an int; got {type(threads).__name__}")
    if not 1 <= int(threads) <= 1024:
        raise ValueError(f"set_num_threads: threads must be between 1 and 1024; got {threads}")
    _kernels.set_num_threads(int(threads))


def get_num_threads():
    """How many threads the kernels use."""
    return _kernels.get_num_threads()


class Options(NamedTuple):
    """Choices that a user may make for a stretch of code; see `options`."""

    conv_algorithm: str = "auto"
    fuse: bool = True


_ALLOWED = {"conv_algorithm": ("auto", "direct", "winograd", "planes"), "fuse": (True, False)}
_options = ContextVar("pyconv_options", default=Options())  # noqa: B039 - frozen


def current_options():
    """The options in force in this thread."""
    return _options.get()


@contextmanager
def options(**choices):
    """Choose how operators work inside a ``with`` block, in this thread alone.

    Parameters
    ----------
    conv_algorithm : {'auto', 'direct', 'winograd', 'planes'}
        'direct' forces the plain algorithm on every convolution: slower, with smaller rounding errors, and such as
        are relative to what an output sums, where Winograd's are to the largest value within some pixels of it.
        'winograd' takes Winograd's wherever it can serve: float32, one group, stride 1 with kernels of 3x3 or 5x5
        or (along lines, for more than a vector of channels) of any other shape, and stride 2 with 3x3.
        'planes' is the plain algorithm for contiguous images, which are not converted to channels-last memory.
    fuse : bool
        Whether containers run neighbouring layers as one where the result is the same to rounding.

    Examples
    --------
    >>> import pyconv
    >>> with pyconv.options(conv_algorithm="direct"):
    ...     pass  # convolutions here use no Winograd transforms
    """
    names = Options._fields
    for name, value in choices.items():
        if name not in names:
            raise TypeError(f"options: unknown option {name!r}; choose from {', '.join(names)}")
        if value not in _ALLOWED[name]:
            raise ValueError(f"options: {name} must be one of {_ALLOWED[name]}; got {value!r}")
    token = _options.set(_options.get()._replace(**choices))
    try:
        yield
    finally:
        _options.reset(token)


def empty_cache():
    """Give the memory pool's idle blocks back to the operating system."""
    _kernels.empty_cache()


def show_config():
    """Print the version, the instruction set and the threads in use.

    Examples
    --------
    >>> import pyconv
    >>> pyconv.show_config()  # doctest: +ELLIPSIS
    pyconv ...
    """
    from pyconv import __version__

    print(f"pyconv {__version__}")
    print(f"instruction set: {_kernels.get_isa()} (of {', '.join(_kernels.isa_names())})")
    print(f"threads: {get_num_threads()} ({'OpenMP' if _kernels.has_openmp() else 'built without OpenMP'})")


_kernels.set_num_threads(min(1024, _default_num_threads()))
if os.environ.get("PYCONV_ISA"):
    _kernels.set_isa(os.environ["PYCONV_ISA"])
