"""Residual networks [1]_.

.. [1] He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015.
"""

from pyconv import nn
from pyconv.models._arguments import check_counts, image_extents
from pyconv.nn import init


class BasicBlock(nn.Composed):
    """relu(bn(conv3x3(relu(bn(conv3x3(x))))) + x)."""

    expansion = 1

    def __init__(self, in_channels, channels, stride=1, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def compose(self):
        main = nn.Sequential(self.conv1, self.bn1, self.relu, self.conv2, self.bn2)
        return nn.Residual(main, self.downsample, self.relu)


class Bottleneck(nn.Composed):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around a shortcut; the stride is that of the 3 x 3 one."""

    expansion = 4

    def __init__(self, in_channels, channels, stride=1, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def compose(self):
        main = nn.Sequential(self.conv1, self.bn1, self.relu, self.conv2, self.bn2, self.relu, self.conv3, self.bn3)
        return nn.Residual(main, self.downsample, self.relu)


def _layer(block, in_channels, channels, blocks, stride):
    """`blocks` blocks, of which the first changes the size."""
    out_channels = channels * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    rest = [block(out_channels, channels) for _ in range(blocks - 1)]
    return nn.Sequential(block(in_channels, channels, stride, downsample), *rest)


def _stem(name, stem, in_channels, image_size):
    """The layers before the first block, by name."""
    if stem is None:
        stem = "imagenet" if image_size is None or max(image_extents(name, image_size, 1)) > 64 else "cifar"
    if stem == "imagenet":
        return {
            "conv1": nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False),
            "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(),
            "maxpool": nn.MaxPool2d(3, 2, padding=1),
        }
    if stem == "cifar":
        return {
            "conv1": nn.Conv2d(in_channels, 64, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(64),
            "relu": nn.ReLU(),
        }
    raise ValueError(f"{name}: stem must be 'imagenet' or 'cifar'; got {stem!r}")


def _resnet(name, block, blocks, num_classes, in_channels, stem, image_size):
    check_counts(name, num_classes, in_channels)
    layers = _stem(name, stem, in_channels, image_size)
    previous = 64
    for index, count in enumerate(blocks):
        channels = 64 << index
        layers[f"layer{index + 1}"] = _layer(block, previous, channels, count, 1 if index == 0 else 2)
        previous = channels * block.expansion
    layers["avgpool"] = nn.AdaptiveAvgPool2d((1, 1))
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(previous, num_classes)
    model = nn.Sequential(layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def resnet18(num_classes=1000, in_channels=3, stem=None, image_size=None):
    """ResNet of 18 layers.

    Parameters
    ----------
    num_classes, in_channels : int
    stem : "imagenet" or "cifar", optional
        A 7 x 7 convolution of stride 2 and a max pooling, or a 3 x 3 convolution of stride 1. By default
        the latter where `image_size` is given and at most 64, else the former.
    image_size : int or pair, optional
    """
    return _resnet("resnet18", BasicBlock, (2, 2, 2, 2), num_classes, in_channels, stem, image_size)


def resnet34(num_classes=1000, in_channels=3, stem=None, image_size=None):
    """ResNet of 34 layers; arguments as of `resnet18`."""
    return _resnet("resnet34", BasicBlock, (3, 4, 6, 3), num_classes, in_channels, stem, image_size)


def resnet50(num_classes=1000, in_channels=3, stem=None, image_size=None):
    """ResNet of 50 layers, with bottleneck blocks; arguments as of `resnet18`."""
    return _resnet("resnet50", Bottleneck, (3, 4, 6, 3), num_classes, in_channels, stem, image_size)
