"""The documentation says what is true: the README's example runs, and the table of operators is complete."""

import inspect
import re
from pathlib import Path

import pytest
import torch

import pyconv.functional as F
from pyconv import nn

ROOT = Path(__file__).resolve().parents[1]
OPERATORS = [name for name in F.__all__ if not name.endswith("_backward")]


def section(heading):
    """The lines of a section of docs/operators.md."""
    text = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    return re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.M | re.S)[1].splitlines()


def table(heading):
    """{name: the other cells} of the table in a section; the first cell may hold several names."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section(heading) if line.startswith("| `")]
    return {name: row[1:] for row in rows for name in re.findall(r"`(\w+)`", row[0])}


def test_readme_example_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"^```python\n(.*?)^```", readme, re.M | re.S)[1], names)
    assert names["loss"] > 0


def test_quick_start_has_two_commands_of_one_line():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    part = re.search(r"^## Quick start\s*$(.*?)(?=^## |\Z)", readme, re.M | re.S)[1]
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", part, re.M | re.S)
    assert [block.count("\n") for block in blocks] == [1, 1]


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_every_operator_is_in_the_table():
    assert sorted(OPERATORS) == sorted(table("Operators"))


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_has_a_gradient(name):
    assert callable(getattr(F, f"{name}_backward", None)) or f"no {name}_backward" in table("Operators")[name][-1]


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_is_named_and_called_as_in_torch(name):
    """Arguments in PyTorch's order with its defaults, except those that the table names."""
    unlike = table("Operators")[name][-1]
    peer = getattr(torch.nn.functional, name, None)
    if peer is None:
        assert f"not in {torch.nn.functional.__name__}" in unlike
        return
    try:
        theirs = dict(inspect.signature(peer).parameters)
    except ValueError:  # written in C
        return
    ours = dict(inspect.signature(getattr(F, name)).parameters)
    if "kwargs" in theirs:  # a dispatcher on return_indices, which hides the names
        theirs = dict(inspect.signature(getattr(torch.nn.functional, f"{name}_with_indices")).parameters)
    for parameter in set(theirs) ^ set(ours):
        assert f"`{parameter}`" in unlike, f"{name}: {parameter} is not in both, and the table doesn't say so"
    shared = [parameter for parameter in theirs if parameter in ours]
    assert shared == [parameter for parameter in ours if parameter in theirs]
    for parameter in shared:
        if f"`{parameter}`" not in unlike:
            assert ours[parameter].default == theirs[parameter].default, (name, parameter)


@pytest.mark.parametrize("name", OPERATORS)
def test_kernel_files_exist(name):
    kernel = table("Operators")[name][1]
    files = re.findall(r"`(\w+\.c)`", kernel)
    assert files or kernel == "NumPy", kernel
    for file in files:
        assert (ROOT / "csrc" / "kernels" / file).is_file(), file


def test_every_layer_is_listed():
    """nn's public classes: those of torch.nn, and those that are said to be pyconv's own."""
    public = {name: getattr(nn, name) for name in nn.__all__}
    layers = [name for name, kind in public.items() if inspect.isclass(kind) and issubclass(kind, nn.Module)]
    text = "\n".join(section("Layers"))
    listed, own = (set(re.findall(r"`(\w+)`", part)) for part in text.split("Only here:"))
    assert listed | own >= set(layers)
    assert {name for name in layers if not hasattr(torch.nn, name)} <= own
