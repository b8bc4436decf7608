"""MobileNetV2 [1]_: inverted residuals around depthwise convolutions.

.. [1] Sandler and others, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
"""

from pyconv import nn
from pyconv.functional._arguments import number
from pyconv.models._arguments import check_counts
from pyconv.nn import init

# Expansion, channels, blocks, and the stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv_bn_relu6(in_channels, out_channels, kernel_size, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Composed):
    """Expand with 1 x 1, filter with depthwise 3 x 3, project with 1 x 1; a shortcut where shapes allow."""

    def __init__(self, in_channels, out_channels, stride, expansion):
        super().__init__()
        hidden = in_channels * expansion
        layers = [_conv_bn_relu6(in_channels, hidden, 1)] if expansion != 1 else []
        layers += [
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def compose(self):
        return nn.Residual(self.conv) if self.has_shortcut else self.conv


def _divisible(channels):
    """The multiple of 8 nearest to `channels`, but at least nine tenths of it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def mobilenet_v2(num_classes=1000, in_channels=3, width_mult=1.0):
    """MobileNetV2; `width_mult` scales the number of channels."""
    check_counts("mobilenet_v2", num_classes, in_channels)
    if not number("mobilenet_v2", "width_mult", width_mult) > 0:
        raise ValueError(f"mobilenet_v2: width_mult must be positive; got {width_mult}")
    previous = _divisible(32 * width_mult)
    last = _divisible(1280 * max(1.0, width_mult))
    features = [_conv_bn_relu6(in_channels, previous, 3, 2)]
    for expansion, channels, blocks, stride in STAGES:
        channels = _divisible(channels * width_mult)
        for index in range(blocks):
            features.append(InvertedResidual(previous, channels, stride if index == 0 else 1, expansion))
            previous = channels
    features.append(_conv_bn_relu6(previous, last, 1))
    model = nn.Sequential(
        {
            "features": nn.Sequential(*features),
            "avgpool": nn.AdaptiveAvgPool2d((1, 1)),
            "flatten": nn.Flatten(),
            "classifier": nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes)),
        }
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, 0, 0.01)
            init.zeros_(module.bias)
    return model
