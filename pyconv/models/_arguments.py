"""What every model checks before it builds a layer."""


def check_counts(model, num_classes, in_channels):
    """Raise unless both are positive ints."""
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{model}: {name} must be an int; got {value!r}")
        if value < 1:
            raise ValueError(f"{model}: {name} must be at least 1; got {value}")


def image_extents(model, image_size, least):
    """(height, width) of an int or a pair, each at least `least`."""
    extents = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(extents) != 2 or any(isinstance(e, bool) or not hasattr(e, "__index__") for e in extents):
        raise TypeError(f"{model}: image_size must be an int or a pair; got {image_size!r}")
    if min(extents) < least:
        raise ValueError(f"{model}: image_size must be at least {least}; got {image_size}")
    return extents
