"""The training loop: batches, forward, loss, backward, update; evaluation; checkpoints."""

import json
import time

import numpy as np

from pyconv.checkpoint import load_safetensors, save_safetensors
from pyconv.data import Dataset, Loader
from pyconv.functional._arguments import count
from pyconv.nn.grad_mode import no_grad
from pyconv.random import as_generator, default_generator


class Trainer:
    """Train a model to tell the classes of images apart.

    Parameters
    ----------
    model : Module
        Takes images (N, C, H, W) and gives one score per class, (N, classes).
    optimizer : Optimizer
        Of the model's parameters.
    criterion : Module, optional
        ``criterion(output, labels)`` is the loss and ``criterion.backward()`` the gradient of the
        output. By default `CrossEntropyLoss`.
    scheduler : LRScheduler, optional
        Its ``step()`` is called after each epoch, or after each batch; `ReduceLROnPlateau` is given the
        test loss, or the training loss where there is no test part.
    scheduler_step : {"epoch", "batch"}
    batch_size : int
    generator : numpy.random.Generator or int
        Where the order of the training images and the augmentation come from; an int is a seed.
    augment : callable or sequence of callables, optional
        Random changes to the training images, as in `Loader`.
    drop_last : bool
        Leave out a last training batch that is not full.
    checkpoint : path-like, optional
        A file that `fit` writes by `save` after each epoch.
    callbacks : sequence of callables
        Each is called after each epoch as ``callback(trainer, record)``, where `record` is the
        epoch's entry of `history`; one that returns True ends the training.
    verbose : bool
        Show a progress bar (on a terminal) and print a line after each epoch.

    Attributes
    ----------
    history : list of dict
        One entry for each epoch: epoch, lr, train_loss, train_accuracy, images_per_second (of the
        training alone), seconds, and test_loss and test_accuracy where there is a test part.

    Examples
    --------
    >>> import pyconv, pyconv.data
    >>> from pyconv import nn, optim
    >>> _ = pyconv.manual_seed(0)
    >>> train, test = pyconv.data.load("digits")
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> trainer = pyconv.Trainer(model, optim.SGD(model.parameters(), lr=0.5), verbose=False)
    >>> trainer.fit(train, test, epochs=5)[-1]["test_accuracy"] > 0.9
    True
    """

    def __init__(self, model, optimizer, criterion=None, scheduler=None, *, scheduler_step="epoch",
                 batch_size=64, generator=0, augment=None, drop_last=False, checkpoint=None, callbacks=(),
                 verbose=True):  # fmt: skip
        if criterion is None:
            from pyconv.nn import CrossEntropyLoss

            criterion = CrossEntropyLoss()
        if scheduler_step not in ("epoch", "batch"):
            raise ValueError(f"Trainer: scheduler_step must be 'epoch' or 'batch'; got {scheduler_step!r}")
        self.model = model
        self.optimizer = optimizer
        self.criterion = criterion
        self.scheduler = scheduler
        self.scheduler_step = scheduler_step
        self.batch_size = count("Trainer", "batch_size", batch_size, 1)
        self.generator = as_generator("Trainer", generator)
        self.augment = augment
        self.drop_last = drop_last
        self.checkpoint = checkpoint
        self.callbacks = tuple(callbacks)
        self.verbose = verbose
        self.history = []

    @property
    def epoch(self):
        """How many epochs the model has been trained."""
        return len(self.history)

    # ---- Training ------------------------------------------------------------------------------------

    def fit(self, train, test=None, epochs=1):
        """Train for some epochs more.

        After a KeyboardInterrupt, which passes through, `history` has every finished epoch and the
        checkpoint is that of the last one.

        Parameters
        ----------
        train : Dataset or (images, labels)
        test : Dataset or (images, labels), optional
            Evaluated after each epoch.
        epochs : int
            At least 0.

        Returns
        -------
        list of dict
            `history`, with the epochs of earlier calls.
        """
        if isinstance(epochs, bool) or not hasattr(epochs, "__index__"):
            raise TypeError(f"fit: epochs must be an int; got {type(epochs).__name__}")
        if epochs < 0:
            raise ValueError(f"fit: epochs must be at least 0; got {epochs}")
        loader = Loader(train, self.batch_size, shuffle=True, generator=self.generator,
                        drop_last=self.drop_last, augment=self.augment)  # fmt: skip
        if not len(loader):
            raise ValueError(f"fit: train must have at least one batch; got {loader.dataset!r}")
        test = None if test is None else _dataset(test)
        last = self.epoch + epochs
        needs_input_grad = self.model.needs_input_grad
        self.model.needs_input_grad = False  # no one uses the gradient of the images
        try:
            while self.epoch < last:
                record = self._train_epoch(loader, last)
                if test is not None:
                    result = self.evaluate(test)
                    record.update(test_loss=result["loss"], test_accuracy=result["accuracy"])
                if self.scheduler is not None and self.scheduler_step == "epoch":
                    self._step_scheduler(record)
                self.history.append(record)
                if self.verbose:
                    print(_line(record, last), flush=True)
                if self.checkpoint is not None:
                    self.save(self.checkpoint)
                if True in [callback(self, record) for callback in self.callbacks]:
                    break
        finally:
            self.model.needs_input_grad = needs_input_grad
        return self.history

    def _train_epoch(self, loader, last):
        self.model.train()
        lr = self.optimizer.param_groups[0]["lr"]
        loss, correct, images = 0.0, 0, 0
        start = time.perf_counter()
        for batch, labels in self._progress(loader, last):
            output = self.model(batch)
            loss += float(self.criterion(output, labels)) * len(labels)
            correct += _correct(output, labels)
            images += len(labels)
            self.optimizer.zero_grad()
            self.model.backward(self.criterion.backward())
            self.optimizer.step()
            if self.scheduler is not None and self.scheduler_step == "batch":
                self.scheduler.step()
        seconds = time.perf_counter() - start
        return {
            "epoch": self.epoch + 1,
            "lr": lr,
            "train_loss": loss / images,
            "train_accuracy": correct / images,
            "images_per_second": images / seconds,
            "seconds": seconds,
        }

    def _step_scheduler(self, record):
        from pyconv.optim.lr_scheduler import ReduceLROnPlateau

        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(record.get("test_loss", record["train_loss"]))
        else:
            self.scheduler.step()

    def _progress(self, loader, last):
        if not self.verbose:
            return loader
        from tqdm import tqdm

        # disable=None: no bar where the standard error is no terminal
        return tqdm(loader, f"epoch {self.epoch + 1}/{last}", leave=False, disable=None, unit="batch")

    # ---- Evaluation ----------------------------------------------------------------------------------

    def evaluate(self, data):
        """The mean loss and the share of images whose highest score is that of their label.

        Parameters
        ----------
        data : Dataset or (images, labels)

        Returns
        -------
        dict
            "loss" and "accuracy".
        """
        data = _dataset(data)
        if not len(data):
            raise ValueError(f"evaluate: data must have at least one image; got {data!r}")
        loss, correct = 0.0, 0
        with no_grad(), _Evaluating(self.model):
            for images, labels in Loader(data, self.batch_size):
                output = self.model(images)
                loss += float(self.criterion(output, labels)) * len(labels)
                correct += _correct(output, labels)
        return {"loss": loss / len(data), "accuracy": correct / len(data)}

    def predict(self, images):
        """The model's scores, (N, classes), of images (N, C, H, W) or a Dataset; ``argmax(1)`` has the class."""
        images = images.images if isinstance(images, Dataset) else np.asarray(images)
        if images.ndim != 4:
            raise ValueError(f"predict: images must have 4 dimensions (N, C, H, W); got shape {images.shape}")
        with no_grad(), _Evaluating(self.model):
            starts = range(0, max(len(images), 1), self.batch_size)
            return np.concatenate([self.model(images[i : i + self.batch_size]) for i in starts])

    # ---- Checkpoints ---------------------------------------------------------------------------------

    def save(self, path, extra=None):
        """Write a checkpoint: one safetensors file, replaced as a whole.

        It has the model's arrays, the optimiser's, the scheduler, the state of every random generator and
        `history`, so that training goes on from it with the same bits as if it had never stopped.

        Parameters
        ----------
        path : str or path-like
        extra : optional
            Anything that JSON can hold; `load` returns it.
        """
        arrays = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        optimizer = self.optimizer.state_dict()
        numbers = {}
        for index, state in optimizer["state"].items():
            for name, value in state.items():
                if isinstance(value, np.ndarray):
                    arrays[f"optimizer.{index}.{name}"] = value
                else:
                    numbers[f"{index}.{name}"] = value
        state = {
            "optimizer": {"param_groups": optimizer["param_groups"], "state": numbers},
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "generators": {name: generator.bit_generator.state for name, generator in self._generators()},
            "history": self.history,
            "extra": extra,
        }
        save_safetensors(path, arrays, {"pyconv": json.dumps(state, default=_plain)})

    def load(self, path):
        """Go on from a checkpoint that `save` wrote; returns its `extra`.

        Raises
        ------
        ValueError
            Where the file is damaged, no checkpoint, or one of another model or optimiser; the message names it,
            and nothing has changed.
        """
        arrays, metadata = load_safetensors(path)
        try:
            state = json.loads(metadata["pyconv"])
            groups = state["optimizer"]["param_groups"]
            optimizer = {"param_groups": groups, "state": {}}
            values = {f"optimizer.{name}": value for name, value in state["optimizer"]["state"].items()}
            values.update((name, array) for name, array in arrays.items() if name.startswith("optimizer."))
            for name, value in values.items():
                _, index, key = name.split(".", 2)
                optimizer["state"].setdefault(int(index), {})[key] = value
            generators, history = state["generators"], state["history"]
            scheduler, extra = state["scheduler"], state["extra"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"Trainer.load: {path}: no checkpoint of a Trainer ({error!r})") from error
        weights = {name[6:]: array for name, array in arrays.items() if name.startswith("model.")}
        if (scheduler is None) != (self.scheduler is None):
            raise ValueError(
                f"Trainer.load: {path}: checkpoint and Trainer must both have a scheduler, or neither; "
                f"{'only the Trainer' if scheduler is None else 'only the checkpoint'} has one"
            )
        try:
            self.model._checked_state(weights)
            self.optimizer.load_state_dict(optimizer)
        except ValueError as error:
            raise ValueError(f"Trainer.load: {path}: {error}") from error
        self.model.load_state_dict(weights)
        if scheduler is not None:
            self.scheduler.load_state_dict(scheduler)
        for name, generator in self._generators():
            if name in generators:
                generator.bit_generator.state = generators[name]
        self.history = history
        return extra

    def _generators(self):
        """Every random generator that the training draws from, by name."""
        yield "trainer", self.generator
        yield "default", default_generator()
        for path, module in self.model.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, np.random.Generator):
                    yield f"model.{path}.{name}", value


class _Evaluating:
    """Context manager: the model in evaluation mode, then each module as it was."""

    def __init__(self, model):
        self.modules = [(module, module.training) for module in model.modules()]
        model.eval()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for module, training in self.modules:
            module.training = training


def _dataset(data):
    return Loader(data).dataset


def _correct(output, labels):
    return int(np.count_nonzero(output.argmax(1) == labels))


def _plain(value):
    """What JSON writes for a NumPy number or array in a state."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"Trainer.save: a checkpoint can't hold {type(value).__name__}: {value!r}")


def _line(record, last):
    text = (
        f"epoch {record['epoch']:{len(str(last))}d}/{last}  "
        f"loss {record['train_loss']:.4f}  accuracy {record['train_accuracy']:.4f}"
    )
    if "test_loss" in record:
        text += f"  test loss {record['test_loss']:.4f}  test accuracy {record['test_accuracy']:.4f}"
    return text + f"  {record['images_per_second']:,.0f} images/s"
