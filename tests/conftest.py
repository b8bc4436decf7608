"""Fixtures of all tests: instruction sets, memory layouts, dtypes, threads; how Hypothesis searches."""

import os

import hypothesis
import numpy as np
import pytest
import torch

import pyconv
from oracle import LAYOUTS
from pyconv import _kernels

# Two OpenMP runtimes share this process; PyTorch's must not spin on the cores that ours needs.
torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "suite",
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("suite"), max_examples=1000, derandomize=False
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture(params=_kernels.isa_names())
def isa(request):
    """Every instruction set level of this machine in turn, set while the test runs; its name."""
    before = _kernels.get_isa()
    _kernels.set_isa(request.param)
    yield request.param
    _kernels.set_isa(before)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both dtypes in turn."""
    return np.dtype(request.param)


@pytest.fixture(params=LAYOUTS)
def layout(request):
    """A function that copies an array into a memory layout, for every layout of oracle.LAYOUTS."""
    return LAYOUTS[request.param]


@pytest.fixture
def threads():
    """pyconv.set_num_threads, undone after the test."""
    before = pyconv.get_num_threads()
    yield pyconv.set_num_threads
    pyconv.set_num_threads(before)


@pytest.fixture
def rng():
    """A random generator of a fixed seed."""
    return np.random.default_rng(0)
