"""Schedules one after the other."""

from bisect import bisect_right

from pyconv.optim.lr_scheduler.base import LRScheduler
from pyconv.optim.lr_scheduler.plateau import ReduceLROnPlateau


class SequentialLR(LRScheduler):
    """One schedule after the other, each beginning at its milestone: a warm-up, then a decay.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : list of LRScheduler
        All of this optimiser.
    milestones : list of int
        The steps at which the second and every later schedule begins.
    last_epoch : int

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    >>> warm_up = optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    >>> decay = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    >>> schedule = optim.lr_scheduler.SequentialLR(optimizer, [warm_up, decay], milestones=[2])
    >>> for step in range(4):
    ...     print(*schedule.get_last_lr())
    ...     schedule.step()
    0.5
    0.75
    1.0
    0.1
    """

    def __init__(self, optimizer, schedulers, milestones, last_epoch=-1):
        self._check_optimizer(optimizer)
        if not schedulers:
            raise ValueError("SequentialLR: schedulers must hold at least one; got none")
        for i, scheduler in enumerate(schedulers):
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"SequentialLR: schedulers can't hold a ReduceLROnPlateau; got one at index {i}")
            if getattr(scheduler, "optimizer", None) is not optimizer:
                raise ValueError(f"SequentialLR: schedulers must all be of `optimizer`; number {i} is not")
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: milestones must be one fewer than schedulers; got {len(milestones)}, {len(schedulers)}"
            )
        self.optimizer = optimizer
        self.schedulers = list(schedulers)
        self.milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self._undo()
        first = self.schedulers[bisect_right(self.milestones, 0)]
        first._begin()
        self._last_lr = first.get_last_lr()

    def _undo(self):
        for scheduler in self.schedulers:
            scheduler._undo()

    def _begin(self):
        self.step()

    def _restart(self):
        self.last_epoch = 0
        first = self.schedulers[bisect_right(self.milestones, 0)]
        first._restart()
        self._last_lr = first.get_last_lr()

    def step(self):
        """Go to the next step of the schedule whose turn it is."""
        self.last_epoch += 1
        turn = bisect_right(self.milestones, self.last_epoch)
        scheduler = self.schedulers[turn]
        if turn > 0 and self.milestones[turn - 1] == self.last_epoch:
            scheduler._restart()
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self):
        """The state of all its schedules and its own."""
        state = {name: value for name, value in super().state_dict().items() if name != "schedulers"}
        return {**state, "schedulers": [scheduler.state_dict() for scheduler in self.schedulers]}

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` gave."""
        state = dict(state_dict)
        for scheduler, saved in zip(self.schedulers, state.pop("schedulers")):
            scheduler.load_state_dict(saved)
        super().load_state_dict(state)
