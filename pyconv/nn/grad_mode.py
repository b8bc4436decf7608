"""Whether forwards keep what a backward needs: `no_grad`."""

import threading
from functools import wraps
from inspect import isgeneratorfunction


class _State(threading.local):
    grad = True  # False inside no_grad()
    call = None  # a token for the outermost Module call in progress


state = _State()


class no_grad:
    """Context manager or decorator: forwards in this thread keep nothing for a backward, which saves their memory.

    Examples
    --------
    >>> import numpy as np, pyconv
    >>> from pyconv import nn
    >>> layer = nn.Linear(2, 1)
    >>> with pyconv.no_grad():
    ...     output = layer(np.ones((1, 2), np.float32))
    >>> layer.backward(output)
    Traceback (most recent call last):
    ...
    RuntimeError: Linear.backward: call forward first; each forward outside no_grad() allows one backward

    >>> @pyconv.no_grad()
    ... def predict(images):
    ...     return layer(images).argmax(1)
    """

    def __enter__(self):
        self._before = state.grad
        state.grad = False

    def __exit__(self, *error):
        state.grad = self._before

    def __call__(self, function):
        if not callable(function) or isgeneratorfunction(function):
            raise TypeError(f"no_grad: what it decorates must be a function, and no generator; got {function!r}")

        @wraps(function)
        def without_grad(*arguments, **options):
            with no_grad():
                return function(*arguments, **options)

        return without_grad


def is_grad_enabled():
    """Whether a forward in this thread keeps what its backward will need: not inside `no_grad`."""
    return state.grad
