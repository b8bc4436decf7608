"""Small networks for small grey images."""

from pyconv import nn
from pyconv.models._arguments import check_counts, image_extents


def lenet5(num_classes=10, in_channels=1, image_size=28):
    """LeCun's network of 6 and 16 feature maps [1]_, with ReLU and max pooling as it is taught today.

    Images smaller than 32 are padded by 2 at the first convolution, which makes 28 x 28 the paper's
    32 x 32. At 28 or 32 it has 61,706 parameters.

    References
    ----------
    .. [1] LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
    """
    check_counts("lenet5", num_classes, in_channels)
    height, width = image_extents("lenet5", image_size, 12)
    padding = 2 if min(height, width) < 32 else 0
    rows, columns = (((extent + 2 * padding - 4) // 2 - 4) // 2 for extent in (height, width))
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * rows * columns, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, num_classes),
    )


def lenet(num_classes=10, in_channels=1, image_size=28):
    """LeNet's shape with 32 and 64 feature maps: two padded 5 x 5 convolutions and two linear layers."""
    check_counts("lenet", num_classes, in_channels)
    height, width = image_extents("lenet", image_size, 4)
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def digits(num_classes=10, in_channels=1, image_size=8):
    """A network for the 8 x 8 optical digits: two padded 3 x 3 convolutions and two linear layers."""
    check_counts("digits", num_classes, in_channels)
    height, width = image_extents("digits", image_size, 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 2) * (width // 2), 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )
