"""Images with their labels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, the class of each, and the names of the classes.

    Parameters
    ----------
    images : ndarray
        (N, C, H, W), float32 or float64. Integers are taken as 0 to 255 and booleans as 0 and 1; both
        become float32 between 0 and 1.
    labels : ndarray
        (N,) integers from 0 to len(classes) - 1.
    classes : sequence of str, optional
        What each label means. By default "0", "1", and so on up to the largest label.
    name : str, optional
        How messages call the data set.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv.data import Dataset
    >>> Dataset(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1]), ("cat", "dog"), "pets")
    Dataset('pets': 2 images of 1x8x8, 2 classes)
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple = ()
    name: str = "dataset"

    def __post_init__(self):
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        if images.ndim != 4:
            raise ValueError(f"Dataset: images must have 4 dimensions (N, C, H, W); got shape {images.shape}")
        if images.dtype.kind in "iu":
            images = images.astype(np.float32) / np.float32(255)
        elif images.dtype.kind == "b":
            images = images.astype(np.float32)
        elif images.dtype not in (np.float32, np.float64):
            raise TypeError(f"Dataset: images must be float32, float64, integers or bool; got {images.dtype}")
        if labels.dtype.kind not in "iu":
            raise TypeError(f"Dataset: labels must be integers; got {labels.dtype}")
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"Dataset: labels must have one entry per image, shape {images.shape[:1]}; got {labels.shape}"
            )
        labels = labels.astype(np.int64, copy=False)
        classes = tuple(self.classes) or tuple(str(i) for i in range(int(labels.max(initial=-1)) + 1))
        if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(
                f"Dataset: labels must be at least 0 and less than {len(classes)}, the number of classes; "
                f"got {labels.min()} to {labels.max()}"
            )
        for field, value in (("images", images), ("labels", labels), ("classes", classes)):
            object.__setattr__(self, field, value)

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        size = "x".join(map(str, self.images.shape[1:]))
        return f"Dataset({self.name!r}: {len(self)} images of {size}, {len(self.classes)} classes)"
