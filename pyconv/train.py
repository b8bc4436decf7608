"""Train a convolutional network on a data set: ``python -m pyconv.train`` or ``pyconv-train``.

With no arguments it trains a small network on the digits that come with the package.
"""

import argparse
import json
import math
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import pyconv
from pyconv import config, data, models, nn, optim
from pyconv.checkpoint import load_safetensors, save_safetensors, write_text
from pyconv.trainer import Trainer

RECIPES = {  # what an option is where it isn't given
    "digits": {"model": "digits", "epochs": 20, "batch_size": 32, "lr": 0.05, "augment": "none"},
    "mnist": {"model": "lenet", "epochs": 5, "batch_size": 64, "lr": 0.05, "augment": "none"},
    "fashion-mnist": {"model": "lenet", "epochs": 10, "batch_size": 64, "lr": 0.05, "augment": "flip"},
}
WARMUP = 0.05  # of all steps, in which the learning rate rises from 0
CHECKPOINT = "checkpoint.safetensors"
FIXED = (  # what must not change when training is resumed
    *("data", "model", "batch_size", "lr", "momentum", "weight_decay"),
    *("nesterov", "schedule", "label_smoothing", "augment", "seed"),
)


class Problem(Exception):
    """A mistake in the arguments or the files they name."""


# ---- Arguments -----------------------------------------------------------------------------------------


def integer(lowest, highest=None):
    def convert(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < lowest or (highest is not None and value > highest):
            between = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
            raise argparse.ArgumentTypeError(f"must be an integer, {between}; got {text!r}")
        return value

    return convert


def number(rule, legal):
    def convert(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and legal(value)):
            raise argparse.ArgumentTypeError(f"must be a number {rule}; got {text!r}")
        return value

    return convert


def one_of(names):
    def convert(text):
        for name in (text, text.replace("-", "_")):  # vgg-small is vgg_small
            if name in names:
                return name
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(names)}; got {text!r}")

    return convert


def parser():
    result = argparse.ArgumentParser("pyconv-train", description=__doc__.split("\n\n")[1])

    def add(name, help, convert=None, default=None, metavar=None):
        result.add_argument(name, help=help, type=convert, default=default, metavar=metavar)

    epochs = ", ".join(f"{recipe['epochs']} for {name}" for name, recipe in RECIPES.items())
    zero = number("at least 0", lambda x: x >= 0)
    fraction = number("between 0 and 1", lambda x: 0 <= x <= 1)
    momentum = number("at least 0 and below 1", lambda x: 0 <= x < 1)
    schedules = one_of(("cosine", "step", "none"))
    add("--data", f"one of {', '.join(data.DATASETS)} (default: digits)", one_of(data.DATASETS), "digits", "NAME")
    add("--data-dir", "folder with the data set's IDX files, plain or gzip", Path, None, "DIR")
    add("--model", f"one of {', '.join(models.MODELS)} (default: digits for digits, otherwise lenet)",
        one_of(models.MODELS), None, "NAME")  # fmt: skip
    add("--epochs", f"how often to go through the training images (default: {epochs})", integer(1), None, "N")
    add("--batch-size", "images in each step (default: 32 for digits, otherwise 64)", integer(1), None, "N")
    add("--lr", "highest learning rate (default: 0.05)", number("above 0", lambda x: x > 0), None, "RATE")
    add("--momentum", "of SGD (default: 0.9)", momentum, 0.9, "M")
    result.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    add("--weight-decay", "(default: 0.0005)", zero, 5e-4, "D")
    add("--schedule", "of the learning rate: cosine, step (a tenth after 1/2 and 3/4 of the steps), both with a "
        "short warm-up, or none (default: cosine)", schedules, "cosine", "NAME")  # fmt: skip
    add("--label-smoothing", "(default: 0)", fraction, 0.0, "S")
    add("--augment", "change the training images at random: flip (left to right), crop (move by up to an eighth of "
        "their size), both or none (default: flip for fashion-mnist, otherwise none)",
        one_of(("none", "flip", "crop", "both")), None, "NAME")  # fmt: skip
    add("--seed", "decides every random number: the same seed gives the same bits (default: 0)", integer(0), 0, "N")
    add("--threads", "(default: every core that this process may use)", integer(1, 1024), None, "N")
    add("--out", "write model.safetensors and metrics.json to this folder, and after each epoch "
        f"{CHECKPOINT}", Path, None, "DIR")  # fmt: skip
    add("--resume", f"go on from this {CHECKPOINT}, or the one in this folder; the other options must be those it was "
        "made with, except --epochs, which counts all epochs", Path, None, "PATH")  # fmt: skip
    result.add_argument("--quiet", action="store_true", help="print only the result")
    result.add_argument("--version", action="version", version=f"pyconv {pyconv.__version__}")
    return result


def arguments(argv):
    """The options, complete with the data set's recipe."""
    args = parser().parse_args(argv)
    for name, value in RECIPES[args.data].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.nesterov and args.momentum == 0:
        raise Problem("argument --nesterov: needs --momentum above 0; got 0.0")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise Problem(f"argument --out: must be a folder; got the file {str(args.out)!r}")
    if args.resume is not None:
        args.resume = args.resume / CHECKPOINT if args.resume.is_dir() else args.resume
        if not args.resume.is_file():
            raise Problem(f"argument --resume: must be a checkpoint or a folder with one; got {str(args.resume)!r}")
    return args


# ---- The run -------------------------------------------------------------------------------------------


def schedule(name, steps):
    """The factor of the learning rate at each step, for LambdaLR."""
    warmup = max(1, int(WARMUP * steps))

    def cosine(step):
        return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1)))

    def stairs(step):
        return min((step + 1) / warmup, 0.1 ** ((step >= steps / 2) + (step >= 3 * steps / 4)))

    return {"cosine": cosine, "step": stairs, "none": lambda step: 1.0}[name]


def augmentation(name, size):
    """The random changes that `Loader` makes to each batch."""
    crop, flip = data.RandomCrop(max(1, min(size) // 8)), data.RandomHorizontalFlip()
    return {"none": [], "flip": [flip], "crop": [crop], "both": [crop, flip]}[name]


def load(args):
    """The training and the test part, which have images, all of one size."""
    try:
        train, test = data.load(args.data, args.data_dir)
    except (OSError, ValueError) as error:
        raise Problem(f"--data {args.data}: {error}") from error
    for part, images in (("training", train.images), ("test", test.images)):
        if not len(images):
            raise Problem(f"--data {args.data}: the {part} part must have at least one image; got none")
    wanted, found = ("x".join(map(str, part.images.shape[1:])) for part in (train, test))
    if wanted != found:
        raise Problem(f"--data {args.data}: the test images must be {wanted}, as those for training are; got {found}")
    return train, test


def build(args, train):
    """The model, which takes an image of these and every batch of them."""
    _, channels, *size = train.images.shape
    lonely = []  # batch norms for which one image has one value per channel

    def note(norm, inputs):
        if inputs[0].size == norm.num_features:
            lonely.append(norm)

    try:
        model = models.create(args.model, num_classes=len(train.classes), in_channels=channels, image_size=tuple(size))
        with pyconv.no_grad(), ExitStack() as hooks:
            for module in model.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    hooks.enter_context(module.register_forward_pre_hook(note))
            model.eval()(train.images[:1])
    except ValueError as error:
        raise Problem(
            f"--model {args.model}: does not fit images of {channels}x{size[0]}x{size[1]}: {error}"
        ) from error
    last_batch = (len(train) - 1) % args.batch_size + 1
    if lonely and last_batch == 1:
        raise Problem(
            "argument --batch-size: must not leave a batch of one image, in which a batch norm "
            f"of {args.model} has one value per channel; got {args.batch_size} for {len(train)} images"
        )
    return model


def prepare(args):
    """Everything that can fail before the first step: (trainer, training part, test part)."""
    train, test = load(args)
    pyconv.manual_seed(args.seed)
    model = build(args, train)
    optimizer = optim.SGD(model.parameters(), args.lr, args.momentum, weight_decay=args.weight_decay,
                          nesterov=args.nesterov)  # fmt: skip
    steps = args.epochs * -(-len(train) // args.batch_size)
    trainer = Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(label_smoothing=args.label_smoothing),
        optim.lr_scheduler.LambdaLR(optimizer, schedule(args.schedule, steps)),
        scheduler_step="batch",
        batch_size=args.batch_size,
        generator=np.random.default_rng([args.seed, 1]),  # other numbers than the initial weights
        augment=augmentation(args.augment, train.images.shape[2:]),
        callbacks=[stop_when_diverged],
        verbose=not args.quiet,
    )
    if args.resume is not None:
        resume(trainer, args)
    return trainer, train, test


def resume(trainer, args):
    try:
        _, metadata = load_safetensors(args.resume)
        made_with = json.loads(metadata["pyconv"])["extra"]["options"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise Problem(f"argument --resume: {args.resume} is no checkpoint of pyconv-train ({error!r})") from error
    for name in FIXED:
        if made_with.get(name) != getattr(args, name):
            option = "--" + name.replace("_", "-")
            raise Problem(
                f"argument --resume: the checkpoint was made with {option} {made_with.get(name)}; "
                f"got {option} {getattr(args, name)}"
            )
    try:
        trainer.load(args.resume)
    except (OSError, ValueError) as error:
        raise Problem(f"argument --resume: {error}") from error
    if trainer.epoch >= args.epochs:
        raise Problem(
            f"argument --epochs: must be above the {trainer.epoch} epochs of the checkpoint; got {args.epochs}"
        )
    for group, lr in zip(trainer.optimizer.param_groups, trainer.scheduler.get_lr()):
        group["lr"] = lr  # of a schedule over --epochs, which may be other than the checkpoint's


class Diverged(Exception):
    """The loss is no longer a number."""


def stop_when_diverged(trainer, record):
    for part in ("train", "test"):
        loss = record[f"{part}_loss"]
        if not math.isfinite(loss):
            raise Diverged(f"the {part} loss became {loss} in epoch {record['epoch']}; try a lower --lr")


def make_out(folder):
    """Create the output folder and see that it can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".pyconv.{os.getpid()}.tmp"
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise Problem(f"argument --out: can't write to {str(folder)!r}: {error.strerror}") from error


def options(args):
    return {name: getattr(args, name) for name in (*FIXED, "epochs")}


def metrics(args, trainer, result):
    """What metrics.json says."""
    history = trainer.history
    images = sum(record["images_per_second"] * record["seconds"] for record in history)
    return {
        "test_accuracy": result["accuracy"],
        "test_loss": result["loss"],
        "train_loss": history[-1]["train_loss"],
        "train_accuracy": history[-1]["train_accuracy"],
        "images_per_second": images / sum(record["seconds"] for record in history),
        "epochs": trainer.epoch,
        "seed": args.seed,
        "parameters": sum(parameter.size for parameter in trainer.model.parameters()),
        "options": options(args),
        "pyconv": pyconv.__version__,
        "isa": config._kernels.get_isa(),
        "threads": pyconv.get_num_threads(),
        "history": history,
    }


def run(args):
    if args.threads is not None:
        pyconv.set_num_threads(args.threads)
    trainer, train, test = prepare(args)
    if args.out is not None:
        make_out(args.out)
        path = args.out / CHECKPOINT
        trainer.callbacks += (lambda trainer, record: trainer.save(path, {"options": options(args)}),)
    if not args.quiet:
        parameters = sum(parameter.size for parameter in trainer.model.parameters())
        isa, threads = config._kernels.get_isa(), pyconv.get_num_threads()
        print(f"{train.name}: {len(train)} training and {len(test)} test images of "
              + "x".join(map(str, train.images.shape[1:])))  # fmt: skip
        print(
            f"{args.model}: {parameters:,} parameters; {threads} thread{'s' * (threads > 1)}, {isa}",
            flush=True,
        )
    trainer.fit(train, test, args.epochs - trainer.epoch)
    last = trainer.history[-1]
    result = {"loss": last["test_loss"], "accuracy": last["test_accuracy"]}
    if args.out is not None:
        about = {"model": args.model, "classes": json.dumps(train.classes), "format": "np"}
        save_safetensors(args.out / "model.safetensors", trainer.model.state_dict(), about)
        write_text(args.out / "metrics.json", json.dumps(metrics(args, trainer, result), indent=1) + "\n")
    print(f"test accuracy {result['accuracy']:.4f}", flush=True)
    if args.out is not None and not args.quiet:
        print(f"wrote {args.out / 'model.safetensors'} and {args.out / 'metrics.json'}", flush=True)


def main(argv=None):
    """Run the command line; returns the exit code: 0, 1 for a failed run, 2 for bad arguments, 130 for Ctrl-C."""
    try:
        run(arguments(argv))
    except Problem as problem:
        return complain(problem, 2)
    except (Diverged, MemoryError, OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):  # whoever read the output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return complain(error, 1)
    except KeyboardInterrupt:
        print("\npyconv-train: interrupted", file=sys.stderr)
        return 130
    return 0


def complain(error, code):
    print(f"pyconv-train: error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
