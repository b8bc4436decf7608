"""GoogLeNet [1]_ with batch norm, as torchvision has it, without the auxiliary classifiers.

.. [1] Szegedy and others, "Going Deeper with Convolutions", 2014.
"""

from pyconv import nn
from pyconv.models._arguments import check_counts
from pyconv.nn import init


class BasicConv2d(nn.Composed):
    """relu(bn(conv(x)))."""

    def __init__(self, in_channels, out_channels, kernel_size, **options):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, **options)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def compose(self):
        return nn.Sequential(self.conv, self.bn, nn.ReLU())


def _inception(in_channels, one, reduce3, three, reduce5, five, pool):
    """Four branches side by side. torchvision's "5 x 5" branch has a 3 x 3 kernel, and so has this one."""
    return nn.Concat(
        {
            "branch1": BasicConv2d(in_channels, one, 1),
            "branch2": nn.Sequential(BasicConv2d(in_channels, reduce3, 1), BasicConv2d(reduce3, three, 3, padding=1)),
            "branch3": nn.Sequential(BasicConv2d(in_channels, reduce5, 1), BasicConv2d(reduce5, five, 3, padding=1)),
            "branch4": nn.Sequential(
                nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), BasicConv2d(in_channels, pool, 1)
            ),
        }
    )


def googlenet(num_classes=1000, in_channels=3):
    """GoogLeNet; images of at least 15 x 15.

    torchvision's weights load with ``strict=False`` where they hold the auxiliary classifiers; its
    ``transform_input`` is left to the caller.
    """
    check_counts("googlenet", num_classes, in_channels)
    model = nn.Sequential(
        {
            "conv1": BasicConv2d(in_channels, 64, 7, stride=2, padding=3),
            "maxpool1": nn.MaxPool2d(3, stride=2, ceil_mode=True),
            "conv2": BasicConv2d(64, 64, 1),
            "conv3": BasicConv2d(64, 192, 3, padding=1),
            "maxpool2": nn.MaxPool2d(3, stride=2, ceil_mode=True),
            "inception3a": _inception(192, 64, 96, 128, 16, 32, 32),
            "inception3b": _inception(256, 128, 128, 192, 32, 96, 64),
            "maxpool3": nn.MaxPool2d(3, stride=2, ceil_mode=True),
            "inception4a": _inception(480, 192, 96, 208, 16, 48, 64),
            "inception4b": _inception(512, 160, 112, 224, 24, 64, 64),
            "inception4c": _inception(512, 128, 128, 256, 24, 64, 64),
            "inception4d": _inception(512, 112, 144, 288, 32, 64, 64),
            "inception4e": _inception(528, 256, 160, 320, 32, 128, 128),
            "maxpool4": nn.MaxPool2d(2, stride=2, ceil_mode=True),
            "inception5a": _inception(832, 256, 160, 320, 32, 128, 128),
            "inception5b": _inception(832, 384, 192, 384, 48, 128, 128),
            "avgpool": nn.AdaptiveAvgPool2d((1, 1)),
            "flatten": nn.Flatten(),
            "dropout": nn.Dropout(0.2),
            "fc": nn.Linear(1024, num_classes),
        }
    )
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init.trunc_normal_(module.weight, 0, 0.01, -2, 2)
    return model
