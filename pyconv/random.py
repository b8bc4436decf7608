"""The generator behind every random draw of the package: initial weights and dropout masks.

An operator that draws takes a ``numpy.random.Generator``; without one it draws from the package's own,
which `manual_seed` restarts.
"""

from functools import cache

import numpy as np


def manual_seed(seed):
    """Restart the package's generator; the same seed gives the same draws. Returns the generator.

    Parameters
    ----------
    seed : int
        At least 0.

    Examples
    --------
    >>> import numpy as np, pyconv
    >>> first = pyconv.manual_seed(1).standard_normal(3)
    >>> bool(np.all(first == pyconv.manual_seed(1).standard_normal(3)))
    True
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"manual_seed: seed must be an int; got {type(seed).__name__}")
    if seed < 0:
        raise ValueError(f"manual_seed: seed must be at least 0; got {seed}")
    generator = default_generator()
    generator.bit_generator.state = np.random.PCG64(int(seed)).state
    return generator


@cache
def default_generator():
    """The package's ``numpy.random.Generator``, made at the first call: numpy.random is slow to import."""
    return np.random.default_rng()


def as_generator(op, generator):
    """`generator` itself, or one of that seed."""
    if isinstance(generator, np.random.Generator):
        return generator
    try:
        return np.random.default_rng(generator)
    except (TypeError, ValueError) as error:
        kind = type(error)
        raise kind(
            f"{op}: generator must be a numpy.random.Generator or an int of at least 0; got {generator!r}"
        ) from error


def uniform(bound, shape, dtype=np.float32):
    """An array of draws from [-bound, bound) of the package's generator."""
    draws = default_generator().random(shape, np.dtype(dtype))
    draws *= 2 * bound
    draws -= bound
    return draws
