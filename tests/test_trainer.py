"""Trainer: fitting, evaluation, reproducibility, checkpoints and interruption."""

import json
import os
import resource

import numpy as np
import pytest

import pyconv
from pyconv import data, nn, optim
from pyconv.checkpoint import load_safetensors, save_safetensors, write_text

TRAIN, TEST = data.load("digits")
TRAIN = data.Dataset(TRAIN.images[:320], TRAIN.labels[:320], TRAIN.classes)


class Noise(nn.Module):
    """Scales each activation at random in training, drawn from the package's generator."""

    def forward(self, input):
        scale = 1
        if self.training:
            scale = pyconv.default_generator().uniform(0.8, 1.2, input.shape).astype(input.dtype)
        self._save(scale)
        return input * scale

    def backward(self, grad_output):
        (scale,) = self._take()
        return grad_output * scale


def make(seed=0, optimizer="sgd", scheduler=None, **options):
    """A Trainer of a small network with everything that draws random numbers or has a state."""
    pyconv.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), Noise(),
        nn.Linear(64, 10),
    )  # fmt: skip
    if optimizer == "sgd":
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    else:
        optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    if scheduler is not None:
        scheduler = scheduler(optimizer)
    options = {"batch_size": 32, "verbose": False, "augment": data.RandomCrop(1)} | options
    return pyconv.Trainer(model, optimizer, scheduler=scheduler, generator=seed, **options)


def bits(trainer):
    """The model's arrays as bytes, and the history without its times."""
    arrays = {name: array.tobytes() for name, array in trainer.model.state_dict().items()}
    times = ("seconds", "images_per_second")
    return arrays, [{k: v for k, v in record.items() if k not in times} for record in trainer.history]


def test_fit_learns_and_records():
    trainer = make(augment=None)
    history = trainer.fit(TRAIN, TEST, epochs=8)
    assert history is trainer.history and trainer.epoch == 8
    assert [record["epoch"] for record in history] == list(range(1, 9))
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 2
    assert history[-1]["test_accuracy"] > 0.85
    assert history[0]["lr"] == 0.1 and history[0]["images_per_second"] > 0
    result = trainer.evaluate(TEST)
    assert result == {"loss": history[-1]["test_loss"], "accuracy": history[-1]["test_accuracy"]}
    trainer.fit((TRAIN.images, TRAIN.labels))
    assert trainer.epoch == 9 and "test_loss" not in trainer.history[-1]


def test_one_epoch_is_the_written_out_loop():
    trainer, twin = make(), make()
    pyconv.manual_seed(7)
    trainer.fit(TRAIN)
    pyconv.manual_seed(7)
    criterion = nn.CrossEntropyLoss()
    loader = data.Loader(TRAIN, 32, shuffle=True, generator=np.random.default_rng(0), augment=data.RandomCrop(1))
    for images, labels in loader:
        criterion(twin.model(images), labels)
        twin.optimizer.zero_grad()
        twin.model.backward(criterion.backward())
        twin.optimizer.step()
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(array, twin.model.state_dict()[name])


def test_evaluate_and_predict_leave_the_model_as_it_was():
    trainer = make()
    trainer.model[4].eval()
    before = {name: array.copy() for name, array in trainer.model.state_dict().items()}
    scores = trainer.predict(TEST.images)
    assert scores.shape == (len(TEST), 10) and scores.dtype == np.float32
    assert trainer.evaluate(TEST)["accuracy"] == (scores.argmax(1) == TEST.labels).mean()
    np.testing.assert_array_equal(trainer.predict(TEST), scores)  # no dropout
    assert trainer.predict(TEST.images[:0]).shape == (0, 10)
    assert [module.training for module in trainer.model] == [True] * 4 + [False, True]
    assert trainer.model.needs_input_grad
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_same_seed_gives_the_same_bits_at_any_number_of_threads(threads):
    results = []
    for count in (1, 2, 2):
        threads(count)
        trainer = make(seed=3)
        trainer.fit(TRAIN, TEST, epochs=2)
        results.append(bits(trainer))
    assert results[0] == results[1] == results[2]
    other = make(seed=4)
    other.fit(TRAIN, TEST, epochs=2)
    assert bits(other) != results[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("scheduler, step", [
    (None, "epoch"),
    (lambda optimizer: optim.lr_scheduler.CosineAnnealingLR(optimizer, 4), "epoch"),
    (lambda optimizer: optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step), "batch"),
    (lambda optimizer: optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0), "epoch"),
], ids=["none", "cosine", "lambda", "plateau"])  # fmt: skip
def test_resuming_gives_the_bits_of_an_uninterrupted_run(tmp_path, optimizer, scheduler, step):
    options = {"optimizer": optimizer, "scheduler": scheduler, "scheduler_step": step}
    whole = make(**options)
    whole.fit(TRAIN, TEST, epochs=4)

    path = tmp_path / "checkpoint.safetensors"
    first = make(**options, checkpoint=path)
    first.fit(TRAIN, TEST, epochs=2)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    second = make(seed=99, **options)
    assert second.load(path) is None and second.epoch == 2
    second.fit(TRAIN, TEST, epochs=2)
    assert bits(second) == bits(whole)


def test_a_checkpoint_keeps_the_generators_inside_the_model(tmp_path):
    trainer = make()
    trainer.model.source = np.random.default_rng(5)
    trainer.save(tmp_path / "file", extra={"note": [1, "a"]})
    expected = trainer.model.source.random(3)
    trainer.model.source = np.random.Generator(np.random.PCG64(6))
    assert trainer.load(tmp_path / "file") == {"note": [1, "a"]}
    np.testing.assert_array_equal(trainer.model.source.random(3), expected)


def test_interruption_keeps_the_history_and_the_last_whole_checkpoint(tmp_path):
    path = tmp_path / "checkpoint"
    steps = []

    def interrupting(images, generator):
        steps.append(1)
        if len(steps) == 25:  # in the third epoch of ten batches
            raise KeyboardInterrupt
        return images

    trainer = make(augment=interrupting, checkpoint=path)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TRAIN, TEST, epochs=5)
    assert trainer.epoch == 2 and trainer.model.needs_input_grad
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
    whole = make(augment=None)
    whole.fit(TRAIN, TEST, epochs=2)
    resumed = make(augment=None)
    resumed.load(path)
    assert bits(resumed) == bits(whole)
    trainer.fit(TRAIN, TEST)
    assert trainer.epoch == 3


def test_callbacks_see_every_epoch_and_can_end_the_training():
    seen = []
    trainer = make(callbacks=[lambda trainer, record: seen.append(record), lambda trainer, _: trainer.epoch == 2])
    trainer.fit(TRAIN, epochs=5)
    assert seen == trainer.history and len(seen) == 2


def test_a_line_for_each_epoch_and_no_bar_without_a_terminal(capsys):
    make(verbose=True).fit(TRAIN, TEST, epochs=2)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert len(lines) == 2 and not printed.err
    assert lines[0].startswith("epoch 1/2  loss ") and "test accuracy 0." in lines[1] and "images/s" in lines[1]


def test_errors():
    trainer = make()
    empty = (TRAIN.images[:0], TRAIN.labels[:0])
    for call, error, message in [
        (lambda: trainer.fit(TRAIN, epochs=-1), ValueError, "epochs must be at least 0; got -1"),
        (lambda: trainer.fit(TRAIN, epochs=1.5), TypeError, "epochs must be an int; got float"),
        (lambda: trainer.fit(empty), ValueError, "at least one batch"),
        (lambda: trainer.fit(TRAIN.images), TypeError, "a pair"),
        (lambda: trainer.evaluate(empty), ValueError, "at least one image"),
        (lambda: trainer.predict(TRAIN.images[0]), ValueError, "images must have 4 dimensions"),
        (lambda: make(scheduler_step="never"), ValueError, "scheduler_step must be"),
        (lambda: make(batch_size=0), ValueError, "Trainer: batch_size must be at least 1; got 0"),
        (lambda: make(batch_size=1.5), TypeError, "Trainer: batch_size must be an int; got 1.5"),
        (lambda: pyconv.Trainer(trainer.model, trainer.optimizer, generator="a"), TypeError,
         "Trainer: generator must be a numpy.random.Generator or an int of at least 0; got 'a'"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    assert trainer.history == []


# ---- Files ---------------------------------------------------------------------------------------------


def test_a_damaged_or_foreign_checkpoint_is_named_and_changes_nothing(tmp_path):
    trainer = make()
    path = tmp_path / "broken"
    trainer.save(path)
    whole = path.read_bytes()
    before = bits(trainer)
    for content in (b"", whole[:100], whole[:-1], b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="broken: not a whole safetensors file"):
            trainer.load(path)
    save_safetensors(path, trainer.model.state_dict())
    with pytest.raises(ValueError, match="broken: no checkpoint of a Trainer"):
        trainer.load(path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="broken: checkpoint and Trainer must both have a scheduler"):
        make(scheduler=lambda optimizer: optim.lr_scheduler.StepLR(optimizer, 1)).load(path)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="broken: load_state_dict"):
        pyconv.Trainer(model, optim.SGD(model.parameters(), 0.1)).load(path)
    with pytest.raises(FileNotFoundError):
        trainer.load(tmp_path / "nothing")
    assert bits(trainer) == before


@pytest.mark.parametrize("other", ["model", "optimizer"])
def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path, other):
    trainer, path = make(), tmp_path / "file"
    trainer.fit(TRAIN)
    trainer.save(path)
    if other == "model":  # of the same optimiser
        trainer.model[5].weight = nn.Parameter(np.ones((64, 10), np.float32))
    else:  # of the same model
        trainer.optimizer = optim.SGD(list(trainer.model.parameters())[:-1], lr=0.3, momentum=0.5)
    for array in trainer.model.state_dict().values():
        array[...] = 7
    before, options = bits(trainer), trainer.optimizer.state_dict()
    with pytest.raises(ValueError, match="Trainer.load: .*file: (load_state_dict|SGD): "):
        trainer.load(path)
    assert bits(trainer) == before
    after = trainer.optimizer.state_dict()
    assert after["param_groups"] == options["param_groups"] and after["state"].keys() == options["state"].keys()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_text(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    with pytest.raises(OSError, match="No space"):
        save_safetensors(path, {"a": np.ones(3)})
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_or_a_folder_that_has_gone_is_an_oserror_of_the_path(tmp_path):
    trainer, path = make(), tmp_path / "file"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            trainer.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(path) and not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError) as error:
        save_safetensors(tmp_path / "gone" / "file", {"a": np.ones(3)})
    assert error.value.filename == str(tmp_path / "gone" / "file")


def test_files_have_the_mode_that_open_gives(tmp_path):
    before = os.umask(0o027)
    try:
        save_safetensors(tmp_path / "arrays", {"a": np.ones(3)})
        write_text(tmp_path / "text", "text")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}


def test_what_a_safetensors_file_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="save_safetensors: .*complex128"):
        save_safetensors(tmp_path / "file", {"a": np.ones(3, complex)})
    with pytest.raises(TypeError, match="metadata"):
        save_safetensors(tmp_path / "file", {}, {"a": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("array", [
    np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1), np.arange(5, dtype=np.int64)[::-1], np.float32(3),
    np.zeros((0, 3), np.float32), np.array(7), np.arange(3, dtype=">f4"), np.array([True, False]),
], ids=["transposed", "reversed", "number", "empty", "scalar", "big-endian", "bool"])  # fmt: skip
def test_safetensors_round_trip(tmp_path, array):
    save_safetensors(tmp_path / "file", {"a.b": array}, {"note": "x"})
    arrays, metadata = load_safetensors(tmp_path / "file")
    np.testing.assert_array_equal(arrays["a.b"], array)
    assert arrays["a.b"].dtype == array.dtype.newbyteorder("=") and arrays["a.b"].shape == array.shape
    assert metadata == {"note": "x"}


def test_the_header_of_a_checkpoint_is_json(tmp_path):
    trainer = make()
    trainer.fit(TRAIN)
    trainer.save(tmp_path / "file")
    state = json.loads(load_safetensors(tmp_path / "file")[1]["pyconv"])
    assert state["history"] == trainer.history and "trainer" in state["generators"]
