"""Images to train on: the data sets, and the batches made from them.

`load` gives a data set's training and test part by name; `Loader` cuts either into batches. The images
are float32 arrays (N, C, H, W) between 0 and 1, the labels int64 arrays (N,).
"""

from pyconv.data.augment import RandomCrop, RandomHorizontalFlip
from pyconv.data.dataset import Dataset
from pyconv.data.idx import read_idx
from pyconv.data.loader import Loader
from pyconv.data.sets import DATASETS, load

__all__ = ["DATASETS", "Dataset", "Loader", "RandomCrop", "RandomHorizontalFlip", "load", "read_idx"]
