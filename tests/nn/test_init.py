"""Initial values: the distributions of torch.nn.init, by their moments and bounds."""

import numpy as np
import pytest
import torch

from pyconv import manual_seed
from pyconv.nn import Parameter, init

SHAPE = (64, 32, 5, 5)
CASES = [
    ("uniform_", {"a": -0.5, "b": 2.0}),
    ("normal_", {"mean": 1.0, "std": 0.3}),
    ("trunc_normal_", {"mean": 0.2, "std": 0.7, "a": -0.5, "b": 1.0}),
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {}),
    ("kaiming_uniform_", {"a": 5**0.5}),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal_", {}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "tanh"}),
    ("constant_", {"val": 3.0}),
    ("zeros_", {}),
    ("ones_", {}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_distribution_is_torchs(name, options, dtype):
    array = np.empty(SHAPE, dtype)
    expected = getattr(torch.nn.init, name)(torch.empty(SHAPE), **options).numpy()
    seed = {} if name in ("constant_", "zeros_", "ones_") else {"generator": np.random.default_rng(1)}
    parameter = Parameter(array)
    assert getattr(init, name)(parameter, **options, **seed) is parameter
    scale = expected.std() + 1e-30
    assert abs(array.mean() - expected.mean()) <= 0.03 * scale
    assert abs(array.std() - expected.std()) <= 0.03 * scale
    if "normal" not in name or "trunc" in name:
        np.testing.assert_allclose([array.min(), array.max()], [expected.min(), expected.max()], rtol=2e-3)


def test_same_seed_same_values_in_any_layout():
    first = init.kaiming_normal_(np.empty((4, 3, 5, 5), np.float32), generator=np.random.default_rng(3))
    view = np.empty((4, 5, 5, 3), np.float32).transpose(0, 3, 1, 2)
    init.kaiming_normal_(view, generator=np.random.default_rng(3))
    np.testing.assert_array_equal(first, view)
    manual_seed(3)
    np.testing.assert_array_equal(init.kaiming_normal_(np.empty_like(first)), first)


@pytest.mark.parametrize("name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gain(name):
    assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_errors():
    with pytest.raises(ValueError, match=r"at least 2 dimensions; got shape \(3,\)"):
        init.kaiming_uniform_(np.zeros(3))
    with pytest.raises(ValueError, match="mode must be 'fan_in' or 'fan_out'; got 'fan'"):
        init.kaiming_normal_(np.zeros((3, 3)), mode="fan")
    with pytest.raises(ValueError, match="got 'magic'"):
        init.calculate_gain("magic")
    with pytest.raises(ValueError, match="param must be a number"):
        init.calculate_gain("leaky_relu", True)
    with pytest.raises(ValueError, match="std must be at least 0; got -1"):
        init.normal_(np.zeros(3), std=-1)
    with pytest.raises(ValueError, match="must reach within 3 std of mean"):
        init.trunc_normal_(np.zeros(3), a=2, b=1)
    with pytest.raises(TypeError, match="ndarray or a Parameter; got list"):
        init.zeros_([1.0])
    for fill in (init.normal_, init.kaiming_uniform_, init.trunc_normal_):
        with pytest.raises(TypeError, match="init: generator must be a numpy.random.Generator or None; got 3"):
            fill(np.zeros((3, 3)), generator=3)
    with pytest.warns(UserWarning, match="nothing to fill"):
        init.kaiming_uniform_(np.zeros((0, 3)))
