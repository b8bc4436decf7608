"""SqueezeNet 1.1 [1]_: fire modules, which squeeze with 1 x 1 and expand with 1 x 1 beside 3 x 3.

.. [1] Iandola and others, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016.
"""

from pyconv import nn
from pyconv.models._arguments import check_counts
from pyconv.nn import init


class Fire(nn.Composed):
    """relu(squeeze), then relu(1 x 1) beside relu(3 x 3)."""

    def __init__(self, in_channels, squeeze, expand1x1, expand3x3):
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def compose(self):
        expand = nn.Concat(
            nn.Sequential(self.expand1x1, self.expand1x1_activation),
            nn.Sequential(self.expand3x3, self.expand3x3_activation),
        )
        return nn.Sequential(self.squeeze, self.squeeze_activation, expand)


def squeezenet1_1(num_classes=1000, in_channels=3):
    """SqueezeNet 1.1; images of at least 17 x 17."""
    check_counts("squeezenet1_1", num_classes, in_channels)
    final = nn.Conv2d(512, num_classes, 1)
    model = nn.Sequential(
        {
            "features": nn.Sequential(
                nn.Conv2d(in_channels, 64, 3, stride=2),
                nn.ReLU(),
                nn.MaxPool2d(3, stride=2, ceil_mode=True),
                Fire(64, 16, 64, 64),
                Fire(128, 16, 64, 64),
                nn.MaxPool2d(3, stride=2, ceil_mode=True),
                Fire(128, 32, 128, 128),
                Fire(256, 32, 128, 128),
                nn.MaxPool2d(3, stride=2, ceil_mode=True),
                Fire(256, 48, 192, 192),
                Fire(384, 48, 192, 192),
                Fire(384, 64, 256, 256),
                Fire(512, 64, 256, 256),
            ),
            "classifier": nn.Sequential(nn.Dropout(0.5), final, nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1))),
            "flatten": nn.Flatten(),
        }
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            if module is final:
                init.normal_(module.weight, 0, 0.01)
            else:
                init.kaiming_uniform_(module.weight)
            init.zeros_(module.bias)
    return model
