"""add, cat and its way back: values beside NumPy's, in every layout, at every instruction set."""

import numpy as np
import pytest

import pyconv.functional as F
from oracle import assert_close
from pyconv.functional import _arrays

SHAPES = [(2, 3, 4, 5), (1, 33, 7, 1), (0, 3, 2, 2), (2, 0, 3, 3), (7,), (70, 300), (1,)]


@pytest.mark.parametrize("shape", SHAPES)
def test_add(shape, layout, dtype, isa, rng):
    a, b = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    assert_close(F.add(layout(a), b), a + b, 0)
    assert_close(F.add(a, layout(b)), a + b, 0)


def test_add_keeps_channels_last_and_nan(rng):
    a = np.full((2, 3, 4, 5), np.nan)
    b = _arrays.channels_last(a)
    for pair in ((a, b), (b, a), (b, b)):
        result = F.add(*pair)
        assert _arrays.wants_channels_last(result) and np.isnan(result).all()
    assert not _arrays.wants_channels_last(F.add(a, a))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("extents", [(3,), (1, 16, 5), (2, 0, 3)])
def test_cat_and_back(extents, dim, layout, dtype, isa, rng):
    arrays = []
    for extent in extents:
        shape = [2, 3, 4, 5]
        shape[dim] = extent
        arrays.append(rng.standard_normal(shape).astype(dtype))
    expected = np.concatenate(arrays, dim)
    assert_close(F.cat([layout(array) for array in arrays], dim), expected, 0)
    parts = F.cat_backward(layout(expected), extents, dim)
    assert len(parts) == len(arrays)
    for part, array in zip(parts, arrays):
        assert_close(part, array, 0)


def test_wrong_arguments():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"add: other must have the shape of input, \(2, 3\); got \(3,\)"):
        F.add(x, np.zeros(3))
    with pytest.raises(TypeError, match="add: other must have the dtype"):
        F.add(x, x.astype(np.float32))
    with pytest.raises(ValueError, match="at least one"):
        F.cat([])
    with pytest.raises(ValueError, match=r"differ in dimension 0 alone; got \(2, 3\), \(2, 4\)"):
        F.cat([x, np.zeros((2, 4))])
    with pytest.raises(ValueError, match="dim must be a dimension"):
        F.cat([x], 2)
    with pytest.raises(TypeError, match=r"tensors\[1\]"):
        F.cat([x, [1.0]])
    with pytest.raises(ValueError, match="sizes must add up to grad_output's 3 in dimension 1"):
        F.cat_backward(x, (1, 1), 1)
