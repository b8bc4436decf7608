"""Convolutions of the networks that people run, in families, with the ratio that each is to reach."""

import re
from typing import NamedTuple

from benchmarks import data


class Family(NamedTuple):
    """Shapes of one kind: `text` names them as `parse` reads them, with commas between."""

    name: str
    targets: tuple  # forward, grad input, grad weight
    text: str

    @property
    def shapes(self):
        return [shape.strip() for shape in self.text.split(",")]


def parse(text):
    """The case of "8x64@56 k64 3x3 s2 p1 d1 g1": batch x channels @ size, output channels, kernel, options.

    A size or an option is one number or two, HxW; stride 1, dilation 1, groups 1 and the padding that
    keeps the size of an odd kernel may be left out.
    """
    head, *words = text.split()
    n, c, size = re.fullmatch(r"(\d+)x(\d+)@([\dx]+)", head).groups()

    def pair(value):
        return [int(part) for part in (value.split("x") * 2)[:2]]

    case = {"n": int(n), "c": int(c), "groups": 1, "stride": [1, 1], "dilation": [1, 1], "label": text}
    case["h"], case["w"] = pair(size)
    for word in words:
        if word[0] == "k":
            case["k"] = int(word[1:])
        elif word[0] == "g":
            case["groups"] = int(word[1:])
        elif word[0] in "spd":
            case[{"s": "stride", "p": "padding", "d": "dilation"}[word[0]]] = pair(word[1:])
        else:
            case["r"], case["s"] = pair(word)
    for_same = [case["dilation"][0] * (case["r"] - 1) // 2, case["dilation"][1] * (case["s"] - 1) // 2]
    case.setdefault("padding", for_same)
    return case


def operations(case):
    """Multiplications and additions of any of the three passes, by the direct algorithm."""
    h, w = data.conv_output(case)
    return 2 * case["n"] * case["k"] * h * w * case["c"] // case["groups"] * case["r"] * case["s"]


FAMILIES = [
    Family("3x3 stride 1, >= 32 channels, batch >= 8", (2.5, 2.5, 2.2), """
        8x64@56 k64 3x3, 8x128@28 k128 3x3, 8x256@14 k256 3x3, 8x512@7 k512 3x3, 32x64@56 k64 3x3,
        64x64@32 k64 3x3, 64x128@16 k128 3x3, 64x256@8 k256 3x3, 64x512@4 k512 3x3, 64x64@16 k128 3x3,
        8x64@224 k64 3x3, 8x128@112 k128 3x3, 8x256@56 k256 3x3, 8x512@28 k512 3x3, 8x512@14 k512 3x3,
        64x192@13 k384 3x3, 64x256@13 k256 3x3, 8x96@35 k96 3x3, 8x80@73 k192 3x3 p0, 32x96@28 k128 3x3,
        32x112@14 k224 3x3, 32x160@7 k320 3x3, 16x128@56 k32 3x3, 16x128@14 k32 3x3, 8x50@30 k70 3x3,
        16x33@29 k65 3x3, 8x100@20 k100 3x3, 64x36@17 k44 3x3
    """),
    Family("3x3 stride 1, batch 1", (1.8, 1.8, 1.2), """
        1x64@56 k64 3x3, 1x128@28 k128 3x3, 1x256@14 k256 3x3, 1x512@7 k512 3x3, 1x64@224 k64 3x3,
        1x128@112 k128 3x3, 1x256@56 k256 3x3, 1x512@28 k512 3x3, 1x512@14 k512 3x3, 1x192@13 k384 3x3,
        1x96@35 k96 3x3, 1x128@14 k32 3x3, 1x64@32 k64 3x3, 1x50@30 k70 3x3, 1x33@29 k65 3x3
    """),
    Family("3x3 stride 1, fewer channels", (1.0, 1.0, 1.0), """
        64x16@32 k16 3x3, 64x32@16 k32 3x3, 16x16@55 k64 3x3, 16x24@28 k24 3x3, 8x20@30 k20 3x3,
        1x16@55 k64 3x3, 1x16@32 k16 3x3
    """),
    Family("5x5 stride 1", (1.8, 1.8, 1.5), """
        64x32@14 k64 5x5, 64x32@28 k32 5x5, 64x64@27 k192 5x5, 8x64@27 k192 5x5, 1x64@27 k192 5x5,
        16x16@28 k32 5x5, 16x24@14 k64 5x5, 32x48@7 k128 5x5, 8x48@35 k64 5x5, 1x48@35 k64 5x5,
        64x20@12 k50 5x5 p0, 8x36@25 k60 5x5
    """),
    Family("1x1", (1.05, 1.05, 1.1), """
        8x64@56 k256 1x1, 8x256@56 k64 1x1, 8x512@28 k128 1x1, 8x128@28 k512 1x1, 8x1024@14 k256 1x1,
        8x256@14 k1024 1x1, 8x2048@7 k512 1x1, 8x512@7 k2048 1x1, 1x256@56 k64 1x1, 1x1024@14 k256 1x1,
        1x2048@7 k512 1x1, 16x32@48 k16 1x1, 16x24@24 k144 1x1, 16x144@24 k24 1x1, 16x320@3 k1280 1x1,
        16x192@28 k64 1x1, 16x512@13 k1000 1x1, 16x256@28 k128 1x1, 8x100@20 k50 1x1, 8x33@25 k65 1x1
    """),
    Family("strided", (1.05, 1.05, 1.1), """
        8x128@56 k128 3x3 s2, 8x256@28 k256 3x3 s2, 8x512@14 k512 3x3 s2, 64x64@32 k128 3x3 s2,
        1x128@56 k128 3x3 s2, 1x512@14 k512 3x3 s2, 8x288@35 k384 3x3 s2 p0, 8x64@56 k128 1x1 s2,
        8x256@56 k512 1x1 s2, 8x1024@14 k2048 1x1 s2, 8x50@31 k70 3x3 s2, 8x64@28 k64 5x5 s2
    """),
    Family("7x7, 11x11, 1x7, 7x1", (1.05, 1.05, 1.1), """
        8x192@17 k192 1x7, 8x192@17 k192 7x1, 8x128@17 k128 1x7, 8x128@17 k192 7x1, 1x192@17 k192 1x7,
        1x192@17 k192 7x1, 8x32@28 k32 7x7, 8x48@32 k64 11x11, 8x384@8 k384 1x3, 8x384@8 k384 3x1
    """),
    Family("dilated", (1.05, 1.05, 1.1), """
        4x256@28 k256 3x3 d2, 4x512@28 k512 3x3 d4, 1x256@33 k256 3x3 d6, 8x64@56 k64 3x3 d2,
        1x50@30 k70 3x3 d2
    """),
    Family("grouped", (1.05, 1.05, 1.1), """
        8x128@56 k128 3x3 g32, 8x256@28 k256 3x3 g32, 8x512@14 k512 3x3 g32, 1x256@28 k256 3x3 g32,
        16x96@27 k256 5x5 g2, 16x240@28 k240 1x1 g3, 8x128@28 k128 3x3 g4
    """),
    Family("first layers (1-4 input channels)", (1.3, 3.0, 1.2), """
        4x3@224 k64 7x7 s2, 1x3@224 k64 7x7 s2, 8x3@224 k64 11x11 s4 p2, 2x3@224 k64 3x3,
        1x3@224 k64 3x3, 64x3@32 k64 3x3, 64x3@32 k16 3x3, 64x1@28 k32 5x5, 64x1@28 k20 5x5 p0,
        1x1@28 k32 5x5, 16x3@96 k32 3x3 s2, 1x3@224 k32 3x3 s2, 8x3@299 k32 3x3 s2 p0, 8x4@64 k32 3x3,
        64x1@8 k16 3x3, 8x2@65 k50 3x3
    """),
    Family("depthwise", (1.3, 1.5, 1.5), """
        16x32@48 k32 3x3 g32, 16x96@48 k96 3x3 s2 g96, 16x144@24 k144 3x3 g144, 16x192@28 k192 3x3 g192,
        16x144@56 k144 3x3 s2 g144, 16x384@14 k384 3x3 g384, 16x576@14 k576 3x3 s2 g576,
        16x960@7 k960 3x3 g960, 1x32@112 k32 3x3 g32, 1x192@28 k192 3x3 g192, 1x144@56 k144 3x3 s2 g144,
        8x144@56 k144 5x5 s2 g144, 8x240@28 k240 5x5 g240, 8x672@14 k672 5x5 g672,
        8x1152@7 k1152 5x5 g1152, 1x672@14 k672 5x5 g672, 8x100@30 k100 3x3 g100
    """),
    Family("few output channels", (1.5, 1.5, 1.5), """
        64x1@28 k6 5x5, 64x6@14 k16 5x5 p0, 1x1@28 k6 5x5, 1x6@14 k16 5x5 p0, 64x1@8 k4 3x3,
        64x8@16 k10 3x3, 64x6@14 k10 3x3, 64x3@32 k4 3x3, 64x3@32 k6 5x5 p0, 8x32@64 k4 3x3,
        8x64@32 k10 1x1
    """),
]  # fmt: skip

QUICK = ["8x64@56 k64 3x3", "8x128@28 k128 3x3", "1x256@14 k256 3x3", "64x32@14 k64 5x5", "8x256@56 k64 1x1",
         "8x128@56 k128 3x3 s2", "4x3@224 k64 7x7 s2", "64x1@28 k32 5x5", "16x192@28 k192 3x3 g192",
         "64x6@14 k16 5x5 p0"]  # fmt: skip
