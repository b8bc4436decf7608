"""Learning-rate schedules, with the names, arguments and numbers of ``torch.optim.lr_scheduler``.

A schedule sets the learning rates of an optimiser's groups when it is made and at each ``step()``. As in
PyTorch most derive the new rate from the current one, so that several schedules on one optimiser compose,
and a rate changed by hand stays changed.
"""

from pyconv.optim.lr_scheduler.base import LRScheduler
from pyconv.optim.lr_scheduler.cycle import OneCycleLR
from pyconv.optim.lr_scheduler.decay import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    StepLR,
)
from pyconv.optim.lr_scheduler.plateau import ReduceLROnPlateau
from pyconv.optim.lr_scheduler.sequential import SequentialLR

__all__ = [
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
