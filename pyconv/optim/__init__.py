"""Optimisers, learning-rate schedules and gradient clipping, with the names and rules of ``torch.optim``."""

from pyconv.optim import lr_scheduler
from pyconv.optim.adam import Adam, AdamW
from pyconv.optim.clip import clip_grad_norm_, clip_grad_value_
from pyconv.optim.optimizer import Optimizer
from pyconv.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm_", "clip_grad_value_", "lr_scheduler"]
