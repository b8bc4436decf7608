"""What `python -m pyconv.train --data fashion-mnist` does, in PyTorch: the same network, recipe and batches.

    python -m benchmarks.torch_train --data-dir DIR --model lenet --epochs 5

Batches are drawn from tensors in memory, without DataLoader's overhead; channels-last, which is PyTorch's
faster mode for these networks.
"""

import argparse
import gzip
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.torch_models import MODELS

WARMUP = 0.05  # of all steps


def read_idx(path):
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        content = file.read()
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def load(folder, part):
    images, labels = (read_idx(next(Path(folder).glob(f"{part}-{kind}*"))) for kind in ("images-idx3", "labels-idx1"))
    images = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    return images.to(memory_format=torch.channels_last), torch.from_numpy(labels.astype(np.int64))


def batches(count, size, order):
    return [order[start : start + size] for start in range(0, count, size)]


def evaluate(model, images, labels, size):
    model.eval()
    with torch.inference_mode():
        correct = sum(int((model(images[i : i + size]).argmax(1) == labels[i : i + size]).sum())
                      for i in range(0, len(images), size))  # fmt: skip
    return correct / len(images)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--model", default="lenet", choices=MODELS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, labels = load(args.data_dir, "train")
    test_images, test_labels = load(args.data_dir, "t10k")
    options = {"stem": "cifar"} if args.model.startswith("resnet") else {}
    model = MODELS[args.model](num_classes=10, in_channels=1, **options).to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model.parameters(), args.lr, 0.9, weight_decay=5e-4, fused=True)
    steps = args.epochs * math.ceil(len(images) / args.batch_size)
    warmup = max(1, int(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        sgd, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1)))
    )
    for epoch in range(args.epochs):
        model.train()
        for batch in batches(len(images), args.batch_size, torch.randperm(len(images))):
            flip = torch.rand(len(batch), 1, 1, 1) < 0.5
            loss = F.cross_entropy(model(torch.where(flip, images[batch].flip(3), images[batch])), labels[batch])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
        accuracy = evaluate(model, test_images, test_labels, args.batch_size)
        print(f"epoch {epoch + 1}/{args.epochs}  test accuracy {accuracy:.4f}", flush=True)
    print(json.dumps({"test_accuracy": accuracy}))


if __name__ == "__main__":
    main()
