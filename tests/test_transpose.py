"""The layout kernel: every size around its squares, and nothing written beyond the result."""

import numpy as np
import pytest

from oracle import Guarded
from pyconv import _kernels


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 64, 300])
def test_transpose(rows, dtype, isa, rng):
    for columns in (0, 1, 2, 3, 4, 6, 9, 16, 31, 49, 64, 600):
        x = Guarded((2, rows, columns), dtype)
        x.memory.view(dtype)[:] = np.nan
        x.array[...] = rng.standard_normal(x.array.shape)
        result = Guarded((2, columns, rows), dtype)
        _kernels.transpose(2, rows, columns, x.array, result.array)
        np.testing.assert_array_equal(result.array, x.array.transpose(0, 2, 1))
        result.check()
