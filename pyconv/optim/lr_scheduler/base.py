"""What the schedules share."""

from pyconv.functional._arguments import is_int
from pyconv.optim.optimizer import Optimizer


class LRScheduler:
    """The base of the schedules.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates to set.
    last_epoch : int
        -1 to begin; to go on, the epoch reached (the groups must then have their ``"initial_lr"``).

    Attributes
    ----------
    base_lrs : list of float
        Each group's initial learning rate.
    last_epoch : int
        The number of steps taken.
    """

    def __init__(self, optimizer, last_epoch=-1):
        self._check_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"{self._name}: with last_epoch >= 0, group {i} must have an 'initial_lr'; it has none")
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._begin()

    @property
    def _name(self):
        return type(self).__name__

    def _check_optimizer(self, optimizer):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{self._name}: optimizer must be an Optimizer; got {type(optimizer).__name__}")

    def _begin(self):
        """Set the first rates: a step whose rates are the initial ones, for most schedules."""
        self.last_epoch += 1
        self._set(self._first())

    def _undo(self):
        """Take back the step of the constructor; SequentialLR then begins anew."""
        self.last_epoch -= 1

    def _rates(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set(self, rates):
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate
        self._last_lr = self._rates()

    def _scaled(self, factor):
        return [rate * factor for rate in self._rates()]

    def _first(self):
        """The rates when the schedule is made."""
        return self._rates()

    def get_lr(self):
        """The rates of epoch `last_epoch`, given those of the epoch before."""
        raise NotImplementedError

    def _restarted(self):
        """The rates of epoch `last_epoch`, given only the initial ones."""
        return self.get_lr()

    def _restart(self):
        self.last_epoch = 0
        self._set(self._restarted())

    def step(self):
        """Go to the next epoch (or batch, if that is how the schedule counts)."""
        self.last_epoch += 1
        self._set(self.get_lr())

    def get_last_lr(self):
        """The learning rates that the schedule set last, one for each group."""
        return self._last_lr

    def state_dict(self):
        """The schedule's state, all but the optimiser: numbers, strings and lists."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict):
        """Take over what `state_dict` gave; the optimiser's rates come with its own state."""
        vars(self).update(state_dict)


def positive_int(op, name, value):
    if not is_int(value) or value <= 0:
        raise ValueError(f"{op}: {name} must be a positive int; got {value!r}")
    return int(value)


def per_group(op, name, optimizer, value):
    """One value for each group: the list that was given, or the one value repeated."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{op}: {name} must have one value for each of {groups} groups; got {len(value)}")
    return list(value)
