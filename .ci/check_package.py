"""Build the wheel and the source distribution of the current folder and check what is in them.

The wheel must hold the compiled package and its data, no sources and no tests; be small; and work in an
empty virtual environment, away from the checkout, with no compiler. The source distribution must build.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

LARGEST_WHEEL = 6_000_000  # bytes
LONGEST_IMPORT = 0.15  # seconds of processor time, beyond the interpreter and NumPy
FORBIDDEN = (".c", ".h", ".pyx", ".pxd", ".pxi", ".o")
CHECK = """
import sys, time, pathlib, numpy
began = time.process_time()
import pyconv
print(time.process_time() - began)
import numpy as np, pyconv.functional as F
assert pathlib.Path(pyconv.__file__).is_relative_to(sys.prefix), pyconv.__file__
assert F.relu(np.array([-1.0, 2.0])).tolist() == [0, 2]
"""


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, **options)


def check_wheel(wheel):
    size = wheel.stat().st_size
    assert size < LARGEST_WHEEL, f"{wheel.name} has {size} bytes"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    bad = [name for name in names if name.endswith(FORBIDDEN) or not name.startswith(("pyconv/", "pyconv-"))]
    assert not bad, f"{wheel.name} holds {bad}"
    for wanted in ("pyconv/py.typed", "pyconv/_kernels.pyi"):
        assert wanted in names, f"{wheel.name} lacks {wanted}"
    print(f"{wheel.name}: {size / 1e6:.1f} MB, {len(names)} files")


def check_installed(wheel, folder):
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", str(wheel))
    environment = {"PATH": str(folder / "venv" / "bin"), "HOME": str(folder)}  # no compiler there
    seconds = min(float(run(python, "-c", CHECK, env=environment, cwd=folder, stdout=subprocess.PIPE).stdout)
                  for _ in range(5))  # fmt: skip
    assert seconds < LONGEST_IMPORT, f"importing the installed pyconv takes {seconds:.3f} s"
    print(f"installed: imports in {seconds * 1e3:.0f} ms")
    train = run(python, "-m", "pyconv.train", "--epochs", "1", env=environment, cwd=folder,
                stdout=subprocess.PIPE)  # fmt: skip
    print("installed:", train.stdout.strip().splitlines()[-1])


def check_sdist(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path) for pattern in ("csrc/**/*.[ch]", "pyconv/**/*.py", "pyconv/**/*.p[xy][dix]", "tests/*.py",
                                    "tests/selftest/*.[ch]")
               for path in Path().glob(pattern)}  # fmt: skip
    missing = (sources | {"setup.py", "pyproject.toml", "LICENSE", "README.md"}) - names
    assert not missing, f"{sdist.name} lacks {sorted(missing)}"
    print(f"{sdist.name}: {len(names)} entries")


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run(sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-deps", "-w", str(folder))
        check_wheel(*folder.glob("*.whl"))
        check_installed(*folder.glob("*.whl"), folder)
        run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(folder), stderr=subprocess.DEVNULL)
        check_sdist(*folder.glob("*.tar.gz"))


if __name__ == "__main__":
    os.umask(0o022)
    main()
