"""Results that are written past the caches, as large ones are: the same bits as those that are not."""

import numpy as np
import pytest

from oracle import channels_last
from pyconv import _kernels, nn

LAYERS = {
    "relu": lambda channels, size: nn.ReLU(),
    "gelu": lambda channels, size: nn.GELU(),
    "batch_norm": lambda channels, size: nn.BatchNorm2d(channels),
    "batch_norm_relu": lambda channels, size: nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()),
    "group_norm": lambda channels, size: nn.GroupNorm(1, channels),
    "instance_norm": lambda channels, size: nn.InstanceNorm2d(channels, affine=True),
    "layer_norm": lambda channels, size: nn.LayerNorm([channels, *size]),
    "softmax": lambda channels, size: nn.Softmax(1),
    "log_softmax": lambda channels, size: nn.LogSoftmax(1),
    "max_pool": lambda channels, size: nn.MaxPool2d(3, 2, 1),
    "residual": lambda channels, size: nn.Residual(nn.BatchNorm2d(channels), activation=nn.ReLU()),
}


@pytest.fixture
def streamed():
    """A function that has every result streamed; undone after the test."""
    before = _kernels.get_cache_bytes()
    yield lambda: _kernels.set_cache_bytes(0)
    _kernels.set_cache_bytes(before)


# whole vectors, tails of rows, and images that begin in the middle of a vector
@pytest.mark.parametrize("shape", [(2, 64, 8, 8), (3, 16, 9, 11), (5, 7, 5, 5)])
@pytest.mark.parametrize("as_images", [np.ascontiguousarray, channels_last])
@pytest.mark.parametrize("layer", LAYERS)
def test_streamed_results_have_the_same_bits(layer, as_images, shape, isa, dtype, streamed, rng):
    x = as_images(rng.standard_normal(shape).astype(dtype))

    def results():
        module = LAYERS[layer](shape[1], shape[2:]).to(dtype)
        output = module(x)
        gradient = np.cos(np.arange(output.size, dtype=dtype)).reshape(output.shape)
        return output, module.backward(as_images(gradient))

    expected = results()
    streamed()
    for actual, before in zip(results(), expected):
        assert actual.tobytes() == before.tobytes()
