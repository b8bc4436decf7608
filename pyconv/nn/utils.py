"""Gradient clipping, under the names of ``torch.nn.utils``."""

from pyconv.optim.clip import clip_grad_norm_, clip_grad_value_

__all__ = ["clip_grad_norm_", "clip_grad_value_"]
