"""The command line: `python -m pyconv.train`."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pyconv import data, models, nn, train
from pyconv.checkpoint import load_safetensors

QUICK = ["--epochs", "2", "--batch-size", "64"]


@pytest.fixture(autouse=True)
def one_thread(threads):
    """Runs within this process use one thread unless they ask for more: the suite's machine is shared."""
    threads(1)


def command(*arguments, **environment):
    return {
        "args": [sys.executable, "-m", "pyconv.train", *map(str, arguments)],
        "env": {k: v for k, v in os.environ.items() if not k.startswith("PYCONV_")} | environment,
        "text": True,
    }


def run(*arguments, **environment):
    return subprocess.run(**command(*arguments, **environment), capture_output=True, timeout=120)


def metrics(folder):
    found = json.loads((folder / "metrics.json").read_text())
    for record in [found, *found["history"]]:
        for name in ("images_per_second", "seconds", "threads"):
            record.pop(name, None)
    return found


def weights(folder):
    return load_safetensors(folder / "model.safetensors")[0]


def assert_same(one, two):
    assert metrics(one) == metrics(two)
    for name, array in weights(one).items():
        np.testing.assert_array_equal(array, weights(two)[name])


def test_the_default_reaches_its_accuracy_and_prints_a_line_per_epoch(tmp_path):
    done = run("--out", tmp_path / "a" / "b", OMP_NUM_THREADS="1")
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert "\r" not in done.stdout and "\x1b" not in done.stdout
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == train.RECIPES["digits"]["epochs"] and all("images/s" in line for line in epochs)
    accuracy = float(re.search(r"^test accuracy ([\d.]+)$", done.stdout, re.M)[1])
    found = json.loads((tmp_path / "a" / "b" / "metrics.json").read_text())
    assert accuracy >= 0.98 and found["test_accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert found["epochs"] == len(epochs) and found["seed"] == 0
    assert found["test_loss"] < 0.2 and found["train_loss"] < 0.2 and found["images_per_second"] > 0

    model = models.create("digits", num_classes=10, in_channels=1, image_size=(8, 8))
    model.load_state_dict(weights(tmp_path / "a" / "b"))
    test = data.load("digits")[1]
    assert (model.eval()(test.images).argmax(1) == test.labels).mean() == found["test_accuracy"]


def test_seed_threads_and_resuming_decide_the_bits_as_they_should(tmp_path):
    assert train.main([*QUICK, "--quiet", "--seed", "5", "--threads", "1", "--out", str(tmp_path / "one")]) == 0
    assert train.main([*QUICK, "--quiet", "--seed", "5", "--threads", "2", "--out", str(tmp_path / "two")]) == 0
    assert_same(tmp_path / "one", tmp_path / "two")
    assert train.main([*QUICK, "--quiet", "--seed", "6", "--out", str(tmp_path / "other")]) == 0
    assert metrics(tmp_path / "one")["test_loss"] != metrics(tmp_path / "other")["test_loss"]


def test_resume(tmp_path, monkeypatch):
    options = [*QUICK, "--quiet", "--epochs", "3", "--augment", "both", "--schedule", "cosine"]
    assert train.main([*options, "--out", str(tmp_path / "whole")]) == 0

    def interrupt(trainer, record):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_when_diverged", lambda trainer, record: None)
        save = train.Trainer.save
        patch.setattr(train.Trainer, "save", lambda self, *a: (save(self, *a), interrupt(self, None)))
        assert train.main([*options, "--out", str(tmp_path / "half")]) == 130
    assert [file.name for file in (tmp_path / "half").iterdir()] == [train.CHECKPOINT]
    assert train.main([*options, "--resume", str(tmp_path / "half"), "--out", str(tmp_path / "rest")]) == 0
    assert_same(tmp_path / "whole", tmp_path / "rest")


def test_ctrl_c_ends_with_130_and_nothing_half_written(tmp_path):
    out = tmp_path / "out"
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a background job would ignore it
    process = subprocess.Popen(**command("--epochs", "1000000", "--out", out), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, preexec_fn=heed)  # fmt: skip
    try:
        while not process.stdout.readline().startswith("epoch"):
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.strip() == "pyconv-train: interrupted"
    assert [file.name for file in out.iterdir()] == [train.CHECKPOINT]
    load_safetensors(out / train.CHECKPOINT)


@pytest.mark.parametrize("arguments, message", [
    (["--data", "imagenet"], "--data: must be one of digits, mnist, fashion-mnist; got 'imagenet'"),
    (["--model", "lenet6"], "--model: must be one of .*lenet5.*; got 'lenet6'"),
    (["--epochs", "0"], "--epochs: must be an integer, at least 1; got '0'"),
    (["--epochs", "two"], "--epochs: must be an integer, at least 1; got 'two'"),
    (["--batch-size", "-1"], "--batch-size: must be an integer, at least 1; got '-1'"),
    (["--lr", "0"], "--lr: must be a number above 0; got '0'"),
    (["--lr", "nan"], "--lr: must be a number above 0; got 'nan'"),
    (["--lr", "inf"], "--lr: must be a number above 0; got 'inf'"),
    (["--momentum", "1"], "--momentum: must be a number at least 0 and below 1; got '1'"),
    (["--weight-decay", "-0.5"], "--weight-decay: must be a number at least 0; got '-0.5'"),
    (["--label-smoothing", "2"], "--label-smoothing: must be a number between 0 and 1"),
    (["--seed", "-3"], "--seed: must be an integer, at least 0; got '-3'"),
    (["--threads", "0"], "--threads: must be an integer, between 1 and 1024; got '0'"),
    (["--schedule", "square"], "--schedule: must be one of cosine, step, none; got 'square'"),
    (["--augment", "mirror"], "--augment: must be one of none, flip, crop, both; got 'mirror'"),
    (["--nesterov", "--momentum", "0"], "--nesterov: needs --momentum above 0"),
    (["--data", "mnist", "--data-dir", "nowhere"], "--data mnist: load: data_dir must have the files"),
    (["--resume", "nowhere"], "--resume: must be a checkpoint or a folder with one; got 'nowhere'"),
    (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["digits"], "unrecognized arguments: digits"),
])  # fmt: skip
def test_bad_arguments(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    try:
        code = train.main([*arguments, "--out", "out"])
    except SystemExit as leaving:
        code = leaving.code
    printed = capsys.readouterr()
    assert code == 2 and re.search(message, printed.err) and not printed.out
    assert "Traceback" not in printed.err and not list(tmp_path.iterdir())


def test_an_output_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    assert train.main(["--out", str(tmp_path / "file")]) == 2
    assert train.main(["--out", str(tmp_path / "file" / "below")]) == 2
    assert train.main(["--out", "/proc/pyconv"]) == 2

    def read_only(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", read_only)
    assert train.main(["--out", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("pyconv-train: error: argument --out: ") == 4 and "epoch" not in printed.out
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_corrupt_file_is_named(tmp_path, capsys):
    for name in data.sets.FILES:
        (tmp_path / name).write_bytes(b"\0\0\x08\x01\0\0\0\x09abc")
    assert train.main(["--data", "mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / data.sets.FILES[0]) in error and "takes 17 bytes; the file has 11" in error
    assert not (tmp_path / "out").exists()


def write_mnist(folder, train=9, test=3, size=(8, 8), test_size=None):
    """The four files of a data set of random images."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, count, extents in zip(data.sets.FILES[::2], (train, test), (size, test_size or size)):
        pixels, labels = rng.integers(0, 256, (count, *extents)), rng.integers(0, 10, count)
        for file, array in ((name, pixels), (data.sets.FILES[data.sets.FILES.index(name) + 1], labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(extent.to_bytes(4, "big") for extent in array.shape)
            (folder / file).write_bytes(header + array.astype(np.uint8).tobytes())
    return ["--data", "mnist", "--data-dir", str(folder), "--epochs", "1", "--quiet"]


@pytest.mark.parametrize("files, arguments, message", [
    ({"train": 0}, [], "--data mnist: the training part must have at least one image; got none"),
    ({"test": 0}, [], "--data mnist: the test part must have at least one image; got none"),
    ({"test_size": (8, 9)}, [], "--data mnist: the test images must be 1x8x8, as those for training are; got 1x8x9"),
    ({}, ["--model", "resnet18", "--batch-size", "8"], "--batch-size: must not leave a batch of one image, in which a "
     "batch norm of resnet18 has one value per channel; got 8 for 9 images"),
    ({}, ["--model", "resnet18", "--batch-size", "1"], "--batch-size: must not leave .*; got 1 for 9 images"),
    ({"train": 1}, ["--model", "resnet18"], "--batch-size: must not leave .*; got 64 for 1 images"),
], ids=["no training", "no test", "sizes", "last batch", "every batch", "one image"])  # fmt: skip
def test_data_that_cannot_be_trained_on_is_found_before_the_first_step(tmp_path, capsys, files, arguments, message):
    data_options = write_mnist(tmp_path / "data", **files)
    assert train.main([*data_options, *arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err) and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--model", "resnet18", "--batch-size", "7"],
                                       ["--model", "vgg-small", "--batch-size", "8"]], ids=" ".join)  # fmt: skip
def test_a_last_batch_that_can_be_trained_on(tmp_path, arguments):
    """Of two images, or of one where each channel has more values."""
    assert train.main([*write_mnist(tmp_path / "data", size=(16, 16)), *arguments]) == 0


@pytest.mark.parametrize("name", ["cosine", "step"])
def test_more_epochs_than_the_checkpoint_was_made_for(tmp_path, name):
    """The rates from there on are those of a run of that length."""
    options = ["--quiet", "--schedule", name, "--batch-size", "256"]
    assert train.main([*options, "--epochs", "2", "--out", str(tmp_path / "short")]) == 0
    assert train.main([*options, "--epochs", "4", "--out", str(tmp_path / "whole")]) == 0
    resumed = ["--epochs", "4", "--resume", str(tmp_path / "short"), "--out", str(tmp_path / "rest")]
    assert train.main([*options, *resumed]) == 0
    rates = [[record["lr"] for record in metrics(tmp_path / out)["history"]] for out in ("rest", "whole")]
    assert rates[0][2:] == rates[1][2:] and rates[0][2] > 0


def test_resume_errors(tmp_path, capsys):
    assert train.main([*QUICK, "--quiet", "--out", str(tmp_path)]) == 0
    resume = ["--resume", str(tmp_path)]
    assert train.main([*resume, *QUICK]) == 2
    assert "--epochs: must be above the 2 epochs of the checkpoint; got 2" in capsys.readouterr().err
    assert train.main([*resume, *QUICK, "--epochs", "3", "--seed", "1"]) == 2
    assert "was made with --seed 0; got --seed 1" in capsys.readouterr().err
    assert train.main(["--resume", str(tmp_path / "model.safetensors")]) == 2
    assert "is no checkpoint of pyconv-train" in capsys.readouterr().err


def test_divergence_ends_the_run_with_a_hint(tmp_path, capsys):
    with np.errstate(all="ignore"):
        assert train.main([*QUICK, "--lr", "1e30", "--out", str(tmp_path)]) == 1
    assert "try a lower --lr" in capsys.readouterr().err
    assert not list(tmp_path.glob("m*"))


def test_an_error_during_training_is_one_line(capsys, monkeypatch):
    def fit(*arguments):
        raise ValueError("batch_norm: needs more than one value a channel")

    monkeypatch.setattr(train.Trainer, "fit", fit)
    assert train.main([]) == 1
    assert capsys.readouterr().err == "pyconv-train: error: batch_norm: needs more than one value a channel\n"


def test_a_folder_that_vanishes_during_training_is_one_line(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(train, "stop_when_diverged", lambda trainer, record: out.rmdir())
    assert train.main([*QUICK, "--quiet", "--out", str(out)]) == 1
    path = out / train.CHECKPOINT
    assert capsys.readouterr().err == f"pyconv-train: error: [Errno 2] No such file or directory: {str(path)!r}\n"


@pytest.mark.parametrize("name", ["cosine", "step", "none"])
def test_schedules_warm_up_and_come_down(name):
    factors = [train.schedule(name, 1000)(step) for step in range(1000)]
    assert max(factors) <= 1 and min(factors) > 0
    if name != "none":
        assert factors[0] < 0.05 and factors[60] > 0.98 and factors[-1] <= 0.0101


def test_help_and_version(capsys):
    for option, text in (("--help", "--data-dir"), ("--version", "pyconv ")):
        with pytest.raises(SystemExit) as leaving:
            train.main([option])
        assert leaving.value.code == 0 and text in capsys.readouterr().out


def test_every_model_is_a_module_with_the_right_number_of_scores():
    assert {"digits", "lenet", "lenet5"} <= set(models.MODELS)
    for name in ("digits", "lenet", "lenet5"):
        for channels, size in ((1, 28), (3, 32)):
            model = models.create(name, num_classes=7, in_channels=channels, image_size=(size, size))
            assert isinstance(model, nn.Module)
            assert model(np.zeros((2, channels, size, size), np.float32)).shape == (2, 7)
