"""Stochastic gradient descent."""

from pyconv import _kernels
from pyconv.optim.optimizer import Optimizer, check_number


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, by the rule of ``torch.optim.SGD``.

    With gradient g, parameter p and momentum buffer b::

        g = g + weight_decay * p
        b = momentum * b + (1 - dampening) * g      (b = g in the first step)
        g = g + momentum * b  with nesterov,  g = b  without
        p = p - lr * g

    Parameters
    ----------
    params : iterable of Parameter, of (name, Parameter), or of dict
        What to train; dicts are groups with options of their own.
    lr : float
        Learning rate, at least 0.
    momentum, dampening, weight_decay : float
        See above. `momentum` and `weight_decay` must be at least 0.
    nesterov : bool
        Nesterov's momentum, which needs `momentum` above 0 and no `dampening`.
    maximize : bool
        Climb the gradient rather than descend.

    Raises
    ------
    ValueError
        If an option is out of range, or `params` is empty or names a Parameter twice.

    References
    ----------
    Sutskever, Martens, Dahl, Hinton: On the importance of initialization and momentum in deep learning,
    ICML 2013 (with the learning rate outside the buffer, as in PyTorch).

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> weight = nn.Parameter(np.array([1.0, 2.0]))
    >>> optimizer = optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.grad = np.array([1.0, -1.0])
    >>> optimizer.step()
    >>> weight.data
    array([0.9, 2.1])
    """

    def __init__(self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *, maximize=False):
        options = {"momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {"lr": lr, **options, "nesterov": nesterov, "maximize": maximize})

    def _check_options(self, options):
        self._at_least_zero(options, "lr", "momentum", "weight_decay")
        check_number("SGD", "dampening", options["dampening"])
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError(
                "SGD: nesterov needs momentum above 0 and dampening 0; "
                f"got momentum={options['momentum']}, dampening={options['dampening']}"
            )

    def _structure(self, group):
        return bool(group["momentum"])

    def _buffers(self, group, state, array):
        return (self._state_array(state, "momentum_buffer", array),) if group["momentum"] else ()

    def _update(self, group, updates, states):
        _kernels.sgd(
            updates,
            group["lr"],
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )
