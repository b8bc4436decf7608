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

Written by `python -m benchmarks report` from the JSON files in `results/`, machine by machine. A ratio is
PyTorch's time over pyconv's, above 1 where pyconv is faster: PyTorch's best of contiguous and channels-last
memory (weights prepared in that format), float32, the same threads, each library in a process of its own, in
turn; the median over the rounds of the ratio within a round (since 2026-11-24 every round goes through all cases
in new processes). GFLOP/s are those of the direct algorithm, whatever
algorithm ran, so they may exceed the peak. pyconv's arrays are channels-last, as networks have them; where
there is a second ratio, that is with contiguous arrays, as NumPy makes them.
"""
NAMES = {"avx512": "A machine with AVX-512", "avx2": "A machine with AVX2"}


def write(folder, path):
    """Write the page from every part's JSON in the folders of `folder`, one for each kind of machine."""
    sections = [HEAD]
    for kind in sorted((each for each in folder.iterdir() if each.is_dir()), key=lambda each: each.name, reverse=True):
        sections += [f"## {NAMES.get(kind.name, kind.name)}\n", *_parts(kind)]
    if len(sections) == 1:
        sections.append("No results yet.\n")
    path.write_text("\n".join(sections))
    print(f"written: {path}")


def _parts(folder):
    """The sections of one machine."""
    for name, (part, title) in TITLES.items():
        for file in sorted(folder.glob(f"{name}*.json"), key=lambda file: (len(file.stem), file.stem)):
            if file.stem.split("-")[0] != name:
                continue
            result = json.loads(file.read_text())
            isa = file.stem.partition("-")[2]
            yield f"### {title}{f', limited to {isa}' if isa else ''}\n"
            yield f"{result['date']}; {machine.line(result['machine'])}; {result['rounds']} rounds.\n"
            yield part.summary(result["rows"]) + "\n"
            yield "<details><summary>Every case</summary>\n"
            yield part.details(result["rows"], result["machine"]) + "\n\n</details>\n"
