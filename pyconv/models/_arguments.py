"""What every model checks before it builds a layer."""

from pyconv.functional._arguments import count, is_int


def check_counts(model, num_classes, in_channels):
    """Raise unless both are positive ints."""
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        count(model, name, value, 1)


def image_extents(model, image_size, least):
    """(height, width) of an int or a pair, each at least `least`."""
    extents = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(extents) != 2 or not all(map(is_int, extents)):
        raise TypeError(f"{model}: image_size must be an int or a pair; got {image_size!r}")
    if min(extents) < least:
        raise ValueError(f"{model}: image_size must be at least {least}; got {image_size}")
    return extents
