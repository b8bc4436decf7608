"""Public docstrings: every example runs, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import pyconv

MODULES = ["pyconv", *(found.name for found in pkgutil.walk_packages(pyconv.__path__, "pyconv.")
                       if not found.name.rsplit(".", 1)[-1].startswith("_kernels"))]  # fmt: skip
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=OPTIONS)
    assert failed == 0


@pytest.mark.parametrize("name", [name for name in MODULES if not name.rsplit(".", 1)[-1].startswith("_")])
def test_public_names_are_described(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    for public in getattr(module, "__all__", []):
        thing = getattr(module, public)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert (inspect.getdoc(thing) or "").strip(), f"{name}.{public} has no docstring"
