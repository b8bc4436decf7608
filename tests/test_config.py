"""pyconv.config: threads, instruction set, memory pool; and what environment variables do."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import pyconv
import pyconv.functional as F
from pyconv import _kernels


def run_python(code, timeout=60, **environment):
    """What a fresh interpreter prints for `code`, run with no OMP_ or PYCONV_ variables but these.

    Python may write bytecode, as for a user: compiling the sources at every import takes as long as it does.
    """
    unwanted = ("OMP_", "PYCONV_", "PYTHONDONTWRITEBYTECODE")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
    done = subprocess.run([sys.executable, "-c", code], env=clean | environment, timeout=timeout,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("count", [1, 2, 7, np.int64(3)])
def test_num_threads(threads, count):
    threads(count)
    assert pyconv.get_num_threads() == count


@pytest.mark.parametrize("count", [0, -1, 10**9, 1.5, "2", True, None])
def test_illegal_num_threads(count):
    error = ValueError if type(count) is int else TypeError
    before = pyconv.get_num_threads()
    with pytest.raises(error, match="set_num_threads: threads must be"):
        pyconv.set_num_threads(count)
    assert pyconv.get_num_threads() == before


@pytest.mark.parametrize("value, expected", [("3", "3"), ("3,2", "3"), ("2", "2")])
def test_omp_num_threads(value, expected):
    code = "import pyconv; print(pyconv.get_num_threads())"
    assert run_python(code, OMP_NUM_THREADS=value) == expected


@pytest.mark.parametrize("value", ["", "0", "-2", "many"])
def test_illegal_omp_num_threads_is_ignored(value):
    code = "import pyconv; print(pyconv.get_num_threads())"
    assert run_python(code, OMP_NUM_THREADS=value) == run_python(code)


@pytest.mark.parametrize("isa", _kernels.isa_names())
def test_pyconv_isa(isa):
    code = "import pyconv; print(pyconv._kernels.get_isa())"
    assert run_python(code, PYCONV_ISA=isa) == isa


def test_illegal_pyconv_isa():
    done = subprocess.run([sys.executable, "-c", "import pyconv"], env=os.environ | {"PYCONV_ISA": "sse9"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode != 0
    assert "PYCONV_ISA" in done.stderr and "sse9" in done.stderr


def test_isa_is_restored(isa):
    assert _kernels.get_isa() == isa


def test_import_brings_nothing_but_numpy():
    """matplotlib, PIL, torch, tqdm, ... are imported where they are used."""
    code = """
import sys, numpy
before = set(sys.modules)
import pyconv, pyconv.nn, pyconv.functional
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(name for name in new - {"numpy", *sys.stdlib_module_names} if "cython" not in name))
"""
    assert run_python(code) == "pyconv"


def test_import_time():
    """Well under 0.15 s: processor time, the least of a few, for busy machines."""
    code = "import numpy, time; t = time.process_time(); import pyconv; print(time.process_time() - t)"
    assert min(float(run_python(code)) for _ in range(5)) < 0.1


def test_show_config(capsys):
    pyconv.show_config()
    printed = capsys.readouterr().out
    assert pyconv.__version__ in printed and _kernels.get_isa() in printed


def test_empty_cache():
    F.relu(np.ones((1, 64, 64, 64), np.float32))
    assert _kernels.idle_bytes() > 0
    pyconv.empty_cache()
    assert _kernels.idle_bytes() == 0


def test_pool_does_not_hand_out_memory_that_a_view_sees():
    array = F.relu(np.full((3, 1000), 7.0, np.float32))
    view = array[1, ::2]
    del array
    others = [F.relu(np.zeros((3, 1000), np.float32)) for _ in range(10)]
    assert (view == 7).all()
    assert not any(np.shares_memory(view, other) for other in others)


def test_pool_reuses_memory():
    where = set()
    for _ in range(10):
        where.add(F.relu(np.zeros(100_003, np.float32)).ctypes.data)
    assert len(where) <= 2


def test_arrays_are_aligned():
    for size in (1, 5, 1000, 10**6):
        assert F.relu(np.zeros(size)).ctypes.data % 64 == 0


def test_too_large_an_array_is_a_memory_error():
    with pytest.raises(MemoryError):
        _kernels.empty((1 << 40, 1 << 40), np.dtype(np.float32))


def test_concurrent_calls(threads, rng):
    """The GIL is released, several Python threads compute at once, and each gets its own numbers."""
    threads(2)
    inputs = [rng.standard_normal(100_000) for _ in range(4)]
    results = [None] * 4

    def work(i):
        for _ in range(20):
            results[i] = F.relu(inputs[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result, x in zip(results, inputs):
        np.testing.assert_array_equal(result, np.maximum(x, 0))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_not_hang():
    code = """
import os, warnings, numpy as np, pyconv, pyconv.functional as F
warnings.simplefilter("ignore")
pyconv.set_num_threads(4)
x = np.ones(1_000_000)
F.relu(x)
child = os.fork()
if child == 0:
    F.relu(x)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code) == "0"
