"""The networks of pyconv.models as torch modules, written after torchvision's: the oracle of their tests."""

from collections import OrderedDict

import torch
from torch import nn


def flat_head(features, classifier, pool=None):
    """features, pool, flatten, classifier, with torchvision's names."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.classifier = features, classifier

        def forward(self, x):
            x = self.features(x)
            return self.classifier(torch.flatten(x if pool is None else pool(x), 1))

    return Net()


def lenet5(classes, channels, size):
    padding = 2 if size < 32 else 0
    side = ((size + 2 * padding - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
    )  # fmt: skip


def lenet(classes, channels, size):
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * (size // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


def digits(classes, channels, size):
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * (size // 2) ** 2, 128), nn.ReLU(), nn.Linear(128, classes),
    )  # fmt: skip


VGG = {
    "vgg_small": "64 64 M 128 128 M 256 256 M",
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
}


def vgg(name, classes, channels, size, batch_norm):
    layers = []
    for layer in VGG[name].split():
        if layer == "M":
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        else:
            layers.append(nn.Conv2d(channels, int(layer), kernel_size=3, padding=1))
            layers += [nn.BatchNorm2d(int(layer)), nn.ReLU()] if batch_norm else [nn.ReLU()]
            channels = int(layer)
    if name == "vgg_small":
        return flat_head(nn.Sequential(*layers), nn.Linear(256 * (size // 8) ** 2, classes))
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, classes),
    )  # fmt: skip
    return flat_head(nn.Sequential(*layers), classifier, nn.AdaptiveAvgPool2d((7, 7)))


class Block(nn.Module):
    """BasicBlock (expansion 1) and Bottleneck (expansion 4)."""

    def __init__(self, inputs, channels, stride, expansion):
        super().__init__()
        if expansion == 1:
            self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
        else:
            self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
            self.conv3 = nn.Conv2d(channels, channels * 4, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(channels * 4)
        self.expansion = expansion
        self.downsample = None
        if stride != 1 or inputs != channels * expansion:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, channels * expansion, 1, stride, bias=False), nn.BatchNorm2d(channels * expansion)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.expansion == 4:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, counts, expansion, classes, channels, stem):
        super().__init__()
        if stem == "cifar":
            self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for i, count in enumerate(counts):
            blocks = []
            for j in range(count):
                blocks.append(Block(inputs, 64 << i, 2 if i and not j else 1, expansion))
                inputs = (64 << i) * expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def conv_bn_relu6(inputs, outputs, kernel, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expand):
        super().__init__()
        hidden = inputs * expand
        self.shortcut = stride == 1 and inputs == outputs
        layers = [] if expand == 1 else [conv_bn_relu6(inputs, hidden, 1)]
        self.conv = nn.Sequential(
            *layers,
            conv_bn_relu6(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


def mobilenet_v2(classes, channels):
    layers, inputs = [conv_bn_relu6(channels, 32, 3, 2)], 32
    for t, c, n, s in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ]:  # fmt: skip
        for i in range(n):
            layers.append(InvertedResidual(inputs, c, s if i == 0 else 1, t))
            inputs = c
    layers.append(conv_bn_relu6(inputs, 1280, 1))
    classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
    return flat_head(nn.Sequential(*layers), classifier, nn.AdaptiveAvgPool2d(1))


class Fire(nn.Module):
    def __init__(self, inputs, squeeze, one, three):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, one, 1)
        self.expand3x3 = nn.Conv2d(squeeze, three, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        pool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=3, stride=2), nn.ReLU(), pool,
            Fire(64, 16, 64, 64), Fire(128, 16, 64, 64), pool,
            Fire(128, 32, 128, 128), Fire(256, 32, 128, 128), pool,
            Fire(256, 48, 192, 192), Fire(384, 48, 192, 192), Fire(384, 64, 256, 256), Fire(512, 64, 256, 256),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1))
        )

    def forward(self, x):
        return torch.flatten(self.classifier(self.features(x)), 1)


class DenseLayer(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 128, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, features):
        y = self.conv1(torch.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(torch.relu(self.norm2(y)))


class DenseBlock(nn.ModuleDict):
    def forward(self, x):
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


def densenet121(classes, channels):
    features = OrderedDict(
        conv0=nn.Conv2d(channels, 64, 7, 2, 3, bias=False),
        norm0=nn.BatchNorm2d(64),
        relu0=nn.ReLU(),
        pool0=nn.MaxPool2d(3, 2, 1),
    )
    width = 64
    for i, count in enumerate((6, 12, 24, 16), 1):
        features[f"denseblock{i}"] = DenseBlock(
            {f"denselayer{j + 1}": DenseLayer(width + 32 * j) for j in range(count)}
        )
        width += 32 * count
        if i < 4:
            features[f"transition{i}"] = nn.Sequential(
                OrderedDict(
                    norm=nn.BatchNorm2d(width),
                    relu=nn.ReLU(),
                    conv=nn.Conv2d(width, width // 2, 1, bias=False),
                    pool=nn.AvgPool2d(2, 2),
                )
            )
            width //= 2
    features["norm5"] = nn.BatchNorm2d(width)
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return flat_head(nn.Sequential(features), nn.Linear(width, classes), head)


class BasicConv2d(nn.Module):
    def __init__(self, inputs, outputs, kernel, **options):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, inputs, one, reduce3, three, reduce5, five, pool):
        super().__init__()
        self.branch1 = BasicConv2d(inputs, one, 1)
        self.branch2 = nn.Sequential(BasicConv2d(inputs, reduce3, 1), BasicConv2d(reduce3, three, 3, padding=1))
        self.branch3 = nn.Sequential(BasicConv2d(inputs, reduce5, 1), BasicConv2d(reduce5, five, 3, padding=1))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True), BasicConv2d(inputs, pool, 1)
        )

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.conv1 = BasicConv2d(channels, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x):
        *body, fc = self.children()
        for module in body:
            x = module(x)
        return fc(torch.flatten(x, 1))


def create(name, classes, channels, size):
    """The torch twin of pyconv.models.create(name, num_classes=classes, in_channels=channels, image_size=size)."""
    if name in ("lenet5", "lenet", "digits"):
        return {"lenet5": lenet5, "lenet": lenet, "digits": digits}[name](classes, channels, size)
    if name.startswith("vgg"):
        kind = name.removesuffix("_bn")
        return vgg(kind, classes, channels, size, name.endswith("_bn") or name == "vgg_small")
    if name.startswith("resnet"):
        counts = (2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3)
        stem = "cifar" if size is not None and size <= 64 else "imagenet"
        return ResNet(counts, 4 if name == "resnet50" else 1, classes, channels, stem)
    others = {
        "mobilenet_v2": mobilenet_v2,
        "squeezenet1_1": SqueezeNet,
        "densenet121": densenet121,
        "googlenet": GoogLeNet,
    }
    return others[name](classes, channels)
