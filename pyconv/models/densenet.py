"""DenseNet [1]_: each layer sees the outputs of all layers before it in its block.

.. [1] Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", 2016.
"""

from pyconv import nn
from pyconv.models._arguments import check_counts
from pyconv.nn import init

GROWTH = 32  # channels that each layer adds
BOTTLENECK = 4 * GROWTH  # channels between its 1 x 1 and its 3 x 3 convolution


class DenseLayer(nn.Composed):
    """x beside conv3x3(relu(norm(conv1x1(relu(norm(x))))))."""

    def __init__(self, in_channels):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, BOTTLENECK, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(BOTTLENECK, GROWTH, 3, padding=1, bias=False)

    def compose(self):
        new = nn.Sequential(self.norm1, self.relu1, self.conv1, self.norm2, self.relu2, self.conv2)
        return nn.Concat(nn.Identity(), new)


def _transition(in_channels, out_channels):
    return nn.Sequential(
        {
            "norm": nn.BatchNorm2d(in_channels),
            "relu": nn.ReLU(),
            "conv": nn.Conv2d(in_channels, out_channels, 1, bias=False),
            "pool": nn.AvgPool2d(2, stride=2),
        }
    )


def densenet121(num_classes=1000, in_channels=3):
    """DenseNet of 121 layers; images of at least 29 x 29."""
    check_counts("densenet121", num_classes, in_channels)
    channels = 64
    features = {
        "conv0": nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
        "norm0": nn.BatchNorm2d(channels),
        "relu0": nn.ReLU(),
        "pool0": nn.MaxPool2d(3, stride=2, padding=1),
    }
    blocks = (6, 12, 24, 16)
    for number, layers in enumerate(blocks, 1):
        features[f"denseblock{number}"] = nn.Sequential(
            {f"denselayer{i + 1}": DenseLayer(channels + i * GROWTH) for i in range(layers)}
        )
        channels += layers * GROWTH
        if number < len(blocks):
            features[f"transition{number}"] = _transition(channels, channels // 2)
            channels //= 2
    features["norm5"] = nn.BatchNorm2d(channels)
    model = nn.Sequential(
        {
            "features": nn.Sequential(features),
            "relu": nn.ReLU(),
            "avgpool": nn.AdaptiveAvgPool2d((1, 1)),
            "flatten": nn.Flatten(),
            "classifier": nn.Linear(channels, num_classes),
        }
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight)
    init.zeros_(model.classifier.bias)
    return model
