"""Batches of a data set."""

from collections.abc import Iterable

from pyconv.data.dataset import Dataset
from pyconv.random import as_generator


class Loader:
    """Cut a data set into batches, in a fresh random order at each iteration where asked to.

    Parameters
    ----------
    dataset : Dataset or (images, labels)
    batch_size : int
        Images in a batch; the last one may have fewer.
    shuffle : bool
        Draw a new order from `generator` at each iteration. Without it the batches are views of the
        data set, in its order.
    generator : numpy.random.Generator or int, optional
        Where the order and the augmentation come from; an int is a seed. By default seed 0.
    drop_last : bool
        Leave out a last batch that is not full.
    augment : callable or sequence of callables, optional
        Each is called as ``augment(images, generator)`` and returns the images to train on. It must
        not write to `images`.

    Examples
    --------
    >>> import pyconv.data
    >>> train, test = pyconv.data.load("digits")
    >>> for images, labels in pyconv.data.Loader(train, 64, shuffle=True, generator=0):
    ...     break
    >>> images.shape, images.dtype, labels.shape
    ((64, 1, 8, 8), dtype('float32'), (64,))
    """

    def __init__(self, dataset, batch_size=64, *, shuffle=False, generator=None, drop_last=False, augment=None):
        if not isinstance(dataset, Dataset):
            if not isinstance(dataset, tuple) or len(dataset) != 2:
                raise TypeError(
                    f"Loader: dataset must be a Dataset or a pair (images, labels); got {type(dataset).__name__}"
                )
            dataset = Dataset(*dataset)
        if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__"):
            raise TypeError(f"Loader: batch_size must be an int; got {type(batch_size).__name__}")
        if batch_size < 1:
            raise ValueError(f"Loader: batch_size must be at least 1; got {batch_size}")
        changes = () if augment is None else (augment,) if callable(augment) else augment
        if not isinstance(changes, Iterable) or not all(map(callable, changes := tuple(changes))):
            raise TypeError(f"Loader: augment must be a callable or a sequence of callables; got {augment!r}")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.generator = as_generator("Loader", 0 if generator is None else generator)
        self.drop_last = drop_last
        self.augment = changes

    def __len__(self):
        """How many batches one iteration gives."""
        images = len(self.dataset)
        return images // self.batch_size if self.drop_last else -(-images // self.batch_size)

    def __iter__(self):
        images, labels = self.dataset.images, self.dataset.labels
        order = self.generator.permutation(len(images)) if self.shuffle else None
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = slice(start, start + self.batch_size)
            if order is not None:
                batch = order[batch]
            chosen = images[batch]
            for augment in self.augment:
                chosen = augment(chosen, self.generator)
            yield chosen, labels[batch]
