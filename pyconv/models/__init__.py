"""Convolutional networks by name, with torchvision's structure and ``state_dict`` keys where it has them.

Each is a function of ``num_classes`` and ``in_channels`` that returns a `Module`; those whose linear layers
depend on the size of the image take ``image_size`` as well. Weights start as torchvision starts them, and
those that torchvision saved load by key::

    model = pyconv.models.resnet18()
    model.load_state_dict({key: value.numpy() for key, value in torch_state.items()})
"""

import inspect

from pyconv.models._arguments import image_extents
from pyconv.models.densenet import densenet121
from pyconv.models.googlenet import googlenet
from pyconv.models.lenet import digits, lenet, lenet5
from pyconv.models.mobilenet import mobilenet_v2
from pyconv.models.resnet import resnet18, resnet34, resnet50
from pyconv.models.squeezenet import squeezenet1_1
from pyconv.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg_small

MODELS = {
    model.__name__: model
    for model in (
        digits,
        lenet5,
        lenet,
        vgg_small,
        vgg11,
        vgg11_bn,
        vgg13,
        vgg13_bn,
        vgg16,
        vgg16_bn,
        resnet18,
        resnet34,
        resnet50,
        mobilenet_v2,
        squeezenet1_1,
        densenet121,
        googlenet,
    )
}

__all__ = ["MODELS", "create", *MODELS]


def create(name, *, image_size=None, **options):
    """The model of a name.

    Parameters
    ----------
    name : str
        One of `MODELS`; dashes may stand for underscores.
    image_size : int or pair (height, width), optional
        Passed on to the models that take it; the others fit any size.
    **options
        ``num_classes``, ``in_channels`` and what else the model takes.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        For a name that is not in `MODELS`, or an image too small for the model.
    TypeError
        For an option that the model doesn't take, or a value of another type than it takes.

    Examples
    --------
    >>> from pyconv import models
    >>> model = models.create("lenet5", num_classes=10, in_channels=1, image_size=28)
    >>> sum(parameter.size for parameter in model.parameters())
    61706
    """
    key = str(name).replace("-", "_")
    if key not in MODELS:
        raise ValueError(f"create: name must be one of {', '.join(MODELS)}; got {name!r}")
    parameters = inspect.signature(MODELS[key]).parameters
    for option in options:
        if option not in parameters:
            raise TypeError(f"create: {key} takes {', '.join(parameters)}; got {option}")
    if image_size is not None:
        image_extents(key, image_size, 1)
        if "image_size" in parameters:
            options["image_size"] = image_size
    return MODELS[key](**options)
