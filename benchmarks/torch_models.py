"""The networks of pyconv.models in plain PyTorch: torchvision's structure and state_dict keys."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F


def lenet(num_classes=10, in_channels=1, size=28):
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * (size // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, num_classes),
    )  # fmt: skip


def lenet5(num_classes=10, in_channels=1, size=28):
    last = (size // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * last**2, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, num_classes),
    )  # fmt: skip


def _features(plan, channels, batch_norm):
    layers = []
    for width in plan:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)] if batch_norm else [nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers)


def vgg_small(num_classes=10, in_channels=3, size=32):
    features = _features([64, 64, "M", 128, 128, "M", 256, 256, "M"], in_channels, batch_norm=True)
    classifier = nn.Linear(256 * (size // 8) ** 2, num_classes)
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


class VGG(nn.Module):
    PLANS = {
        11: [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
        16: [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    }

    def __init__(self, depth, batch_norm=False, num_classes=1000, in_channels=3):
        super().__init__()
        self.features = _features(self.PLANS[depth], in_channels, batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(True), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def _shortcut(channels, width, stride):
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, block, depths, num_classes=1000, in_channels=3, stem="imagenet"):
        super().__init__()
        cifar = stem == "cifar"
        self.conv1 = nn.Conv2d(in_channels, 64, 3 if cifar else 7, 1 if cifar else 2, 1 if cifar else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
        channels = 64
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(block(channels, 64 << i, 2 if i > 0 and j == 0 else 1))
                channels = (64 << i) * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class InvertedResidual(nn.Module):
    def __init__(self, channels, width, stride, expand):
        super().__init__()
        hidden = channels * expand
        layers = [] if expand == 1 else [conv_bn_relu6(channels, hidden, 1)]
        layers += [conv_bn_relu6(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, width, 1, bias=False),
                   nn.BatchNorm2d(width)]  # fmt: skip
        self.conv = nn.Sequential(*layers)
        self.joins = stride == 1 and channels == width

    def forward(self, x):
        return x + self.conv(x) if self.joins else self.conv(x)


def conv_bn_relu6(channels, width, kernel, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(inplace=True),
    )


class MobileNetV2(nn.Module):
    PLAN = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]

    def __init__(self, num_classes=1000, in_channels=3):
        super().__init__()
        layers, channels = [conv_bn_relu6(in_channels, 32, 3, 2)], 32
        for expand, width, depth, stride in self.PLAN:
            for j in range(depth):
                layers.append(InvertedResidual(channels, width, stride if j == 0 else 1, expand))
                channels = width
        self.features = nn.Sequential(*layers, conv_bn_relu6(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, x):
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class Fire(nn.Module):
    def __init__(self, channels, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """Version 1.1."""

    def __init__(self, num_classes=1000, in_channels=3):
        super().__init__()
        pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, 2), nn.ReLU(inplace=True), pool(), Fire(64, 16, 64), Fire(128, 16, 64),
            pool(), Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192),
            Fire(384, 64, 256), Fire(512, 64, 256),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(512, num_classes, 1), nn.ReLU(inplace=True),
                                        nn.AdaptiveAvgPool2d((1, 1)))  # fmt: skip

    def forward(self, x):
        return torch.flatten(self.classifier(self.features(x)), 1)


class DenseLayer(nn.Module):
    def __init__(self, channels, growth=32, width=4):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width * growth)
        self.conv2 = nn.Conv2d(width * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    """DenseNet-121."""

    def __init__(self, num_classes=1000, in_channels=3, depths=(6, 12, 24, 16)):
        super().__init__()
        features = {"conv0": nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False), "norm0": nn.BatchNorm2d(64),
                    "relu0": nn.ReLU(inplace=True), "pool0": nn.MaxPool2d(3, 2, 1)}  # fmt: skip
        channels = 64
        for i, depth in enumerate(depths):
            block = nn.Sequential()
            for j in range(depth):
                block.add_module(f"denselayer{j + 1}", DenseLayer(channels))
                channels += 32
            features[f"denseblock{i + 1}"] = block
            if i + 1 < len(depths):
                transition = nn.Sequential()
                transition.add_module("norm", nn.BatchNorm2d(channels))
                transition.add_module("relu", nn.ReLU(inplace=True))
                transition.add_module("conv", nn.Conv2d(channels, channels // 2, 1, bias=False))
                transition.add_module("pool", nn.AvgPool2d(2, 2))
                features[f"transition{i + 1}"] = transition
                channels //= 2
        features["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential()
        for name, module in features.items():
            self.features.add_module(name, module)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = F.relu(self.features(x))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


MODELS = {
    "lenet": lenet,
    "lenet5": lenet5,
    "vgg_small": vgg_small,
    "vgg11": lambda **kw: VGG(11, **kw),
    "vgg11_bn": lambda **kw: VGG(11, True, **kw),
    "vgg16": lambda **kw: VGG(16, **kw),
    "vgg16_bn": lambda **kw: VGG(16, True, **kw),
    "resnet18": lambda **kw: ResNet(BasicBlock, (2, 2, 2, 2), **kw),
    "resnet34": lambda **kw: ResNet(BasicBlock, (3, 4, 6, 3), **kw),
    "resnet50": lambda **kw: ResNet(Bottleneck, (3, 4, 6, 3), **kw),
    "mobilenet_v2": MobileNetV2,
    "squeezenet1_1": SqueezeNet,
    "densenet121": DenseNet,
}
