"""A gradient that does not fit what a layer's forward returned is an error, and never reaches a kernel."""

import numpy as np
import pytest

from pyconv import nn

LAYERS = {
    "Conv2d": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2),
    "ReLU": lambda: nn.ReLU(),
    "PReLU": lambda: nn.PReLU(),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(2),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True),
    "LayerNorm": lambda: nn.LayerNorm((6, 5)),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(3),
    "Dropout": lambda: nn.Dropout(0.5),
    "Flatten": lambda: nn.Flatten(),
    "Linear": lambda: nn.Linear(5, 7),
    "Softmax": lambda: nn.Softmax(1),
    "fused": lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
    "Residual": lambda: nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))),
    "Concat": lambda: nn.Concat(nn.Conv2d(4, 3, 1), nn.Conv2d(4, 2, 3, padding=1)),
}
WILD = {
    "float64": lambda g: g.astype(np.float64),
    "float16": lambda g: g.astype(np.float16),
    "long double": lambda g: g.astype(np.longdouble),
    "objects": lambda g: g.astype(object),
    "larger": lambda g: np.concatenate([g, g], -1),
    "smaller": lambda g: g[..., :-1],
    "one image": lambda g: g[:1],
    "no image": lambda g: g[:0],
    "more dimensions": lambda g: g[None],
    "fewer dimensions": lambda g: g[0],
}
NO_ONE_DTYPE = {"Flatten", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Dropout"}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("wild", WILD)
@pytest.mark.parametrize("name", LAYERS)
def test_wild_gradient(name, wild, channels_last, rng):
    layer = LAYERS[name]()
    x = rng.standard_normal((2, 4, 6, 5)).astype(np.float32)
    if channels_last:
        x = x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    output = layer(x)
    if wild == "float64" and name in NO_ONE_DTYPE:  # these know no dtype but the gradient's
        assert layer.backward(WILD[wild](output)).dtype == np.float64
        return
    with pytest.raises((TypeError, ValueError), match="must"):
        layer.backward(WILD[wild](output))
