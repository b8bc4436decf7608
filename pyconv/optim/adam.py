"""Adam and AdamW."""

from pyconv import _kernels
from pyconv.optim.optimizer import Optimizer, check_number


class Adam(Optimizer):
    """Adaptive moment estimation, by the rule of ``torch.optim.Adam``.

    With gradient g, parameter p and step number t from 1::

        g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2           (with amsgrad, the largest v so far)
        p = p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Parameters
    ----------
    params : iterable of Parameter, of (name, Parameter), or of dict
        What to train; dicts are groups with options of their own.
    lr : float
        Learning rate, at least 0.
    betas : pair of float
        Decay of the running mean of the gradient and of its square, in [0, 1).
    eps : float
        Added to the denominator, at least 0.
    weight_decay : float
        At least 0.
    amsgrad : bool
        Divide by the largest running mean square seen so far.
    maximize : bool
        Climb the gradient rather than descend.

    Raises
    ------
    ValueError
        If an option is out of range, or `params` is empty or names a Parameter twice.

    References
    ----------
    Kingma, Ba: Adam: A method for stochastic optimization, ICLR 2015.
    Reddi, Kale, Kumar: On the convergence of Adam and beyond, ICLR 2018 (amsgrad).

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> weight = nn.Parameter(np.array([1.0, 2.0]))
    >>> optimizer = optim.Adam([weight], lr=0.1)
    >>> weight.grad = np.array([1.0, -1.0])
    >>> optimizer.step()
    >>> weight.data.round(6)
    array([0.9, 2.1])
    """

    _decoupled = False
    _numbers = ("step",)

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, *, maximize=False):
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def _check_options(self, options):
        self._at_least_zero(options, "lr", "eps", "weight_decay")
        betas = options["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"{self._name}: betas must be two numbers in [0, 1); got {betas!r}")
        if not all(0 <= check_number(self._name, "each of betas", beta) < 1 for beta in betas):
            raise ValueError(f"{self._name}: betas must be two numbers in [0, 1); got {betas}")

    def _structure(self, group):
        return bool(group["amsgrad"])

    def _buffers(self, group, state, array):
        state.setdefault("step", 0)
        mean = self._state_array(state, "exp_avg", array)
        square = self._state_array(state, "exp_avg_sq", array)
        return mean, square, self._state_array(state, "max_exp_avg_sq", array) if group["amsgrad"] else None

    def _update(self, group, updates, states):
        steps = [state["step"] + 1 for state in states]
        _kernels.adam(
            updates,
            steps,
            group["lr"],
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            self._decoupled,
            group["maximize"],
        )
        for state, step in zip(states, steps):
            state["step"] = step


class AdamW(Adam):
    """Adam with decoupled weight decay, by the rule of ``torch.optim.AdamW``.

    As `Adam`, but the decay acts on the parameter, ``p = p * (1 - lr * weight_decay)``, and not on the
    gradient; and its default is 0.01.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize
        As in `Adam`.

    References
    ----------
    Loshchilov, Hutter: Decoupled weight decay regularization, ICLR 2019.

    Examples
    --------
    >>> import numpy as np, pyconv.nn as nn, pyconv.optim as optim
    >>> weight = nn.Parameter(np.array([1.0, 2.0]))
    >>> optimizer = optim.AdamW([weight], lr=0.1)
    >>> weight.grad = np.array([1.0, -1.0])
    >>> optimizer.step()
    >>> weight.data.round(6)
    array([0.899, 2.098])
    """

    _decoupled = True

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=1e-2,
        amsgrad=False,
        *,
        maximize=False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
