"""pyconv.functional._arrays: which arrays are legal, and memory formats read as PyTorch reads them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle import LAYOUTS
from pyconv.functional import _arrays

# With C == 1 or H == W == 1 the elements lie in the same order in both formats.
SHAPES = [
    (2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (1, 1, 4, 5), (2, 3, 1, 1), (1, 3, 1, 1), (1, 1, 1, 1),
    (2, 3, 1, 5), (2, 3, 4, 1), (2, 1, 1, 5), (33, 65, 3, 7), (0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5),
]  # fmt: skip


def as_tensor(array):
    """A tensor with the shape and the very strides of `array`, those of size-1 dimensions included."""
    return torch.empty_strided(array.shape, [stride // array.itemsize for stride in array.strides])


def with_strides(shape, order):
    """A dense float32 array of `shape` whose axes lie in memory in this `order`, outermost first."""
    memory = np.arange(np.prod(shape), dtype=np.float32).reshape([shape[axis] for axis in order])
    return memory.transpose(np.argsort(order))


def torch_keeps_channels_last(array):
    """Whether a pooling operator of PyTorch, given this array, makes its output channels-last."""
    n, c, h, w = array.shape
    strides = torch.nn.functional.avg_pool2d(as_tensor(array), 1).stride()
    return strides == (h * w * c, 1, w * c, c) and strides != (c * h * w, h * w, w, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_format_is_what_torch_says(shape, order):
    if 0 in shape:
        pytest.skip("PyTorch calls every empty tensor contiguous")
    array = with_strides(shape, order)
    tensor = as_tensor(array)
    assert _arrays.wants_channels_last(array) == torch_keeps_channels_last(array)
    if order == (0, 2, 3, 1):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert _arrays.is_channels_last(array)
    if _arrays.is_channels_last(array):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    if _arrays.is_contiguous(array):
        assert tensor.is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_conversions_keep_values_and_inputs(shape, name, dtype, isa):
    values = np.arange(1, np.prod(shape) + 1, dtype=dtype).reshape(shape)
    array = LAYOUTS[name](values)
    last, first, dense = _arrays.channels_last(array), _arrays.contiguous(array), _arrays.dense(array)
    assert _arrays.is_channels_last(last) and last.flags.aligned
    assert first.flags.c_contiguous and first.flags.aligned
    for result in (last, first, dense):
        np.testing.assert_array_equal(result, values)
        assert result.dtype == dtype
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1)])
def test_no_copy_where_none_is_needed(shape):
    array = with_strides(shape, (0, 2, 3, 1))
    assert _arrays.channels_last(array) is array
    array = with_strides(shape, (0, 1, 2, 3))
    assert _arrays.contiguous(array) is array
    if shape[1] == 1 or shape[2:] == (1, 1):
        assert np.shares_memory(_arrays.channels_last(array), array)


@given(shape=st.tuples(*[st.integers(1, 40)] * 4), order=st.permutations(range(4)))
def test_round_trip(shape, order):
    array = with_strides(shape, tuple(order))
    np.testing.assert_array_equal(_arrays.contiguous(_arrays.channels_last(array)), array)
    np.testing.assert_array_equal(_arrays.channels_last(_arrays.contiguous(array)), array)


@pytest.mark.parametrize("model_order", [(0, 1, 2, 3), (0, 2, 3, 1)])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_like_takes_the_models_format(model_order, order):
    model, array = with_strides((2, 3, 4, 5), model_order), with_strides((2, 3, 4, 5), order)
    result = _arrays.like(array, model)
    assert result.strides == model.strides
    np.testing.assert_array_equal(result, array)
    assert _arrays.empty_like(model).strides == model.strides


@pytest.mark.parametrize(
    "array, error, message",
    [
        ([1.0], TypeError, r"^op: x must be a numpy\.ndarray; got list$"),
        (np.zeros(2, np.float16), TypeError, r"^op: x must have dtype float32 or float64; got float16$"),
        (np.zeros(2, np.int64), TypeError, r"^op: x must have dtype float32 or float64; got int64$"),
        (np.zeros(2, complex), TypeError, "complex128"),
        (np.zeros(2, ">f4"), TypeError, ">f4"),
        (np.zeros((2, 3)), ValueError, r"^op: x must have 3 or 4 dimensions; got shape \(2, 3\)$"),
    ],
)
def test_illegal_arrays(array, error, message):
    with pytest.raises(error, match=message):
        _arrays.check_array("op", "x", array, ndim=(3, 4))


def test_dtype_of_input_is_asked_for():
    with pytest.raises(TypeError, match=r"^op: weight must have the dtype of input, float32; got float64$"):
        _arrays.check_array("op", "weight", np.zeros(2), dtype=np.dtype(np.float32))
