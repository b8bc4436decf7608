"""benchmarks: the notation of shapes, the arithmetic of ratios, and that both workers compute the same."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
shapes = pytest.importorskip("benchmarks.shapes")  # only in a checkout

from benchmarks import data, machine, race  # noqa: E402

ALL = [text for family in shapes.FAMILIES for text in family.shapes]


@pytest.mark.parametrize("text", ALL)
def test_notation(text):
    case = shapes.parse(text)
    x = torch.empty(case["n"], case["c"], case["h"], case["w"], device="meta")
    weight = torch.empty(case["k"], case["c"] // case["groups"], case["r"], case["s"], device="meta")
    options = (case["stride"], case["padding"], case["dilation"], case["groups"])
    output = torch.nn.functional.conv2d(x, weight, None, *options)
    assert tuple(output.shape[2:]) == data.conv_output(case)
    assert shapes.operations(case) == 2 * output.numel() * weight[0].numel()


def test_families_are_disjoint_and_quick_ones_exist():
    assert len(set(ALL)) == len(ALL)
    assert set(shapes.QUICK) <= set(ALL)


def test_ratios_are_taken_within_a_round():
    times = {"pyconv": [1.0, 4.0, 1.0], "a": [2.0, 8.0, 9.0], "b": [3.0, 7.0, 5.0]}
    result = race.compare(times)
    assert result == {"ratio": 2.0, "seconds": 1.0, "others": {"a": 8.0, "b": 5.0}}


@pytest.mark.timeout(120)
def test_workers_race_and_agree():
    settings = race.Settings(threads=1, rounds=1, seconds=0.001)
    case = shapes.parse("2x3@9 k5 3x3 s2")
    passes, shown = ("forward", "grad input", "grad weight"), []
    (results,) = race.race_cases("conv", [case], passes, settings, lambda i, parts: shown.append((i, parts)))
    assert shown == [(0, results)] and tuple(results) == passes
    with race.Worker("pyconv", settings) as pyconv, race.Worker("torch", settings) as peer:
        described = machine.describe(pyconv, peer)
        with pytest.raises(RuntimeError, match="pyconv: KeyError"):
            pyconv.ask("time", part="none", variant="none", seconds=0)
    assert all(np.isfinite(result["ratio"]) and result["ratio"] > 0 for result in results.values()), results
    assert "GFLOP/s" in machine.line(described)
