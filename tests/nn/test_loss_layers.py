"""Loss layers beside torch.nn's: a float, then the gradient of the input."""

import numpy as np
import pytest
import torch

import pyconv
from oracle import assert_close, to_torch
from pyconv import nn

WEIGHT = np.array([1.0, 0.5, 2.0])
TABLE = [
    ("CrossEntropyLoss", {}),
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.1}),
    ("CrossEntropyLoss", {"ignore_index": 1, "reduction": "sum"}),
    ("NLLLoss", {"weight": WEIGHT, "ignore_index": 1}),
    ("MSELoss", {}),
    ("L1Loss", {"reduction": "sum"}),
    ("SmoothL1Loss", {"beta": 0.5}),
    ("BCEWithLogitsLoss", {}),
    ("BCEWithLogitsLoss", {"weight": WEIGHT, "pos_weight": 2 * WEIGHT}),
]


@pytest.mark.parametrize("name, options", TABLE)
@pytest.mark.parametrize("reduction", [None, "none"])
def test_beside_torch(name, options, reduction, dtype, rng):
    x, target = rng.standard_normal((2, 7, 3)).astype(dtype)
    if name in ("CrossEntropyLoss", "NLLLoss"):
        target = rng.integers(0, 3, 7)
    options = {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    if reduction:
        options["reduction"] = reduction
    torch_options = {k: to_torch(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    theirs, ours = getattr(torch.nn, name)(**torch_options), getattr(nn, name)(**options)
    tensor = to_torch(x, True)
    expected = theirs(tensor, to_torch(target))
    loss = ours(x, target)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    if reduction == "none":
        g = rng.standard_normal(expected.shape).astype(dtype)
        expected.backward(to_torch(g))
        assert_close(loss, expected)
        assert_close(ours.backward(g), tensor.grad)
        return
    assert type(loss) is float
    assert abs(loss - expected.item()) <= 1e-6 * abs(expected.item())
    (3 * expected).backward()
    assert_close(ours.backward(3.0), tensor.grad)
    ours(x, target)
    assert_close(ours.backward(), tensor.grad / 3)
    with pyconv.no_grad():
        assert ours(x, target) == loss
    with pytest.raises(RuntimeError, match=f"{name}.backward: call forward first"):
        ours.backward()


def test_old_names_of_reductions():
    for options in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduction": "sum"}):
        with pytest.warns(UserWarning, match="size_average and reduce"):
            theirs = torch.nn.MSELoss(**options)
        with pytest.warns(UserWarning, match="MSELoss: size_average and reduce are deprecated"):
            assert nn.MSELoss(**options).reduction == theirs.reduction


def test_errors():
    with pytest.raises(ValueError, match="CrossEntropyLoss: label_smoothing must be between 0 and 1; got 2"):
        nn.CrossEntropyLoss(label_smoothing=2)
    with pytest.raises(ValueError, match="MSELoss: reduction must be 'mean', 'sum' or 'none'; got 'avg'"):
        nn.MSELoss(reduction="avg")
    with pytest.raises(ValueError, match="target must be class indices from 0 to 2"):
        nn.CrossEntropyLoss()(np.zeros((1, 3)), np.array([3]))
