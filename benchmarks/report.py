"""`python -m benchmarks report`: RESULTS.md from the JSON files of the latest full runs."""

import json

from benchmarks import accuracy, conv, fashion, machine, networks, ops

TITLES = {
    "conv": (conv, "Convolution"),
    "ops": (ops, "Other operators"),
    "train": (networks.train, "A training step"),
    "infer": (networks.infer, "Inference"),
    "fashion": (fashion, "Training on Fashion-MNIST"),
    "accuracy": (accuracy, "Accuracy of convolutions"),
}
HEAD = """# Results

Written by `python -m benchmarks report` from the JSON files in `results/`. A ratio is PyTorch's time over
pyconv's, above 1 where pyconv is faster: PyTorch's best of contiguous and channels-last memory (weights
prepared in that format), float32, the same threads, each library in a process of its own, in turn; the
median over the rounds of the ratio within a round. GFLOP/s are those of the direct algorithm, whatever
algorithm ran, so they may exceed the peak.
"""


def write(folder, path):
    """Write the page from every part's JSON in `folder`."""
    sections = [HEAD]
    for name, (part, title) in TITLES.items():
        for file in sorted(folder.glob(f"{name}*.json"), key=lambda file: (len(file.stem), file.stem)):
            if file.stem.split("-")[0] != name:
                continue
            result = json.loads(file.read_text())
            isa = file.stem.partition("-")[2]
            sections += [f"## {title}{f', limited to {isa}' if isa else ''}\n",
                         f"{result['date']}; {machine.line(result['machine'])}; {result['rounds']} rounds.\n",
                         part.summary(result["rows"]) + "\n",
                         "<details><summary>Every case</summary>\n",
                         part.details(result["rows"], result["machine"]) + "\n\n</details>\n"]  # fmt: skip
    if len(sections) == 1:
        sections.append("No results yet.\n")
    path.write_text("\n".join(sections))
    print(f"written: {path}")
