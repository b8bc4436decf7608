"""Random changes to a batch of training images: callables for `Loader(augment=...)`."""

import numpy as np

from pyconv.functional._arguments import number


class RandomCrop:
    """Pad each image with zeros on every side, then cut it back to its size at a random place.

    Parameters
    ----------
    padding : int
        Pixels on each side; the image moves by at most this many, each way.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv.data import RandomCrop
    >>> RandomCrop(4)(np.ones((8, 3, 32, 32), np.float32), np.random.default_rng(0)).shape
    (8, 3, 32, 32)
    """

    def __init__(self, padding):
        if isinstance(padding, bool) or not hasattr(padding, "__index__"):
            raise TypeError(f"RandomCrop: padding must be an int; got {type(padding).__name__}")
        if padding < 0:
            raise ValueError(f"RandomCrop: padding must be at least 0; got {padding}")
        self.padding = int(padding)

    def __call__(self, images, generator):
        n, _, h, w = images.shape
        p = self.padding
        padded = np.pad(images, ((0, 0), (0, 0), (p, p), (p, p)))
        result = np.empty_like(images)
        for i, (y, x) in enumerate(generator.integers(0, 2 * p + 1, (n, 2))):
            result[i] = padded[i, :, y : y + h, x : x + w]
        return result


class RandomHorizontalFlip:
    """Mirror each image left to right with probability `p`.

    Parameters
    ----------
    p : float
        Between 0 and 1.
    """

    def __init__(self, p=0.5):
        if not 0 <= number("RandomHorizontalFlip", "p", p) <= 1:
            raise ValueError(f"RandomHorizontalFlip: p must be between 0 and 1; got {p}")
        self.p = p

    def __call__(self, images, generator):
        flip = generator.random(len(images)) < self.p
        return np.where(flip[:, None, None, None], images[..., ::-1], images)
