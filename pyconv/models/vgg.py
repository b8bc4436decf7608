"""VGG [1]_: stacks of 3 x 3 convolutions between max poolings.

.. [1] Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014.
"""

from pyconv import nn
from pyconv.models._arguments import check_counts, image_extents
from pyconv.nn import init

# Channels of the convolutions; "M" is a max pooling that halves the image.
LAYERS = {
    "vgg_small": (64, 64, "M", 128, 128, "M", 256, 256, "M"),
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg13": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg16": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
}


def _features(layers, in_channels, batch_norm):
    modules = []
    for layer in layers:
        if layer == "M":
            modules.append(nn.MaxPool2d(2, stride=2))
            continue
        modules.append(nn.Conv2d(in_channels, layer, 3, padding=1))
        modules += [nn.BatchNorm2d(layer), nn.ReLU()] if batch_norm else [nn.ReLU()]
        in_channels = layer
    return nn.Sequential(*modules)


def _initialise(model):
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, 0, 0.01)
            init.zeros_(module.bias)
    return model


def _vgg(name, num_classes, in_channels, batch_norm):
    check_counts(name, num_classes, in_channels)
    return _initialise(
        nn.Sequential(
            {
                "features": _features(LAYERS[name], in_channels, batch_norm),
                "avgpool": nn.AdaptiveAvgPool2d((7, 7)),
                "flatten": nn.Flatten(),
                "classifier": nn.Sequential(
                    nn.Linear(512 * 7 * 7, 4096),
                    nn.ReLU(),
                    nn.Dropout(0.5),
                    nn.Linear(4096, 4096),
                    nn.ReLU(),
                    nn.Dropout(0.5),
                    nn.Linear(4096, num_classes),
                ),
            }
        )
    )


def vgg11(num_classes=1000, in_channels=3):
    """VGG with 8 convolutions; images of at least 32 x 32."""
    return _vgg("vgg11", num_classes, in_channels, False)


def vgg11_bn(num_classes=1000, in_channels=3):
    """`vgg11` with batch norm after each convolution."""
    return _vgg("vgg11", num_classes, in_channels, True)


def vgg13(num_classes=1000, in_channels=3):
    """VGG with 10 convolutions; images of at least 32 x 32."""
    return _vgg("vgg13", num_classes, in_channels, False)


def vgg13_bn(num_classes=1000, in_channels=3):
    """`vgg13` with batch norm after each convolution."""
    return _vgg("vgg13", num_classes, in_channels, True)


def vgg16(num_classes=1000, in_channels=3):
    """VGG with 13 convolutions; images of at least 32 x 32."""
    return _vgg("vgg16", num_classes, in_channels, False)


def vgg16_bn(num_classes=1000, in_channels=3):
    """`vgg16` with batch norm after each convolution."""
    return _vgg("vgg16", num_classes, in_channels, True)


def vgg_small(num_classes=10, in_channels=3, image_size=32):
    """A VGG for small images: 6 convolutions of 64 to 256 channels with batch norm, and one linear layer."""
    check_counts("vgg_small", num_classes, in_channels)
    height, width = image_extents("vgg_small", image_size, 8)
    return _initialise(
        nn.Sequential(
            {
                "features": _features(LAYERS["vgg_small"], in_channels, True),
                "flatten": nn.Flatten(),
                "classifier": nn.Linear(256 * (height // 8) * (width // 8), num_classes),
            }
        )
    )
