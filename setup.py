"""What pyproject.toml cannot say: the extension, its sources, and the flags of each instruction set.

Every file of ``csrc/kernels`` is compiled once per instruction set and scalar type, with the names
``PYCONV_ISA`` and ``PYCONV_REAL`` defined; the rest of ``csrc`` and the Cython module are compiled
once, for the architecture's ABI default. ``csrc/cpu.c`` picks one of the kernel tables at run time.
"""

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
CFLAGS = ["-std=gnu11", "-O3", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden", "-fno-math-errno",
          *os.environ.get("PYCONV_CFLAGS", "").split()]
# Without -ffp-contract=fast a*b + c is not fused; -fno-trapping-math lets comparisons vectorise.
KERNEL_FLAGS = ["-ffp-contract=fast", "-fno-trapping-math"]
if platform.machine().lower() in ("x86_64", "amd64"):
    AVX2 = ["-mavx2", "-mfma", "-mbmi2"]
    AVX512 = [*AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512"]
    ISA_FLAGS = {"baseline": [], "avx2": AVX2, "avx512": AVX512}
else:
    ISA_FLAGS = {"baseline": []}
OPENMP_CANDIDATES = [  # (compiler flags, linker flags)
    (["-fopenmp"], ["-fopenmp"]),
    (["-Xpreprocessor", "-fopenmp"], ["-lomp"]),  # Apple's clang with libomp installed
]
OPENMP_PROBE = """
#include <omp.h>
int main(void) {
    int sum = 0;
#pragma omp parallel for reduction(+ : sum)
    for (int i = 0; i < 100; i++) sum += i;
    return sum == 4950 && omp_get_max_threads() >= 1 ? 0 : 1;
}
"""


def find_openmp(compiler):
    """Return the first (compile, link) flags whose OpenMP program compiles, links and runs right."""
    for compile_flags, link_flags in OPENMP_CANDIDATES:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(OPENMP_PROBE)
            try:
                objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=compile_flags)
                compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=link_flags)
                subprocess.run([str(Path(folder, "probe"))], check=True, timeout=60)
            except Exception:
                continue
            return compile_flags, link_flags
    print("*" * 78, "pyconv: no working OpenMP found: building WITHOUT threads (slower).", "*" * 78,
          sep="\n", file=sys.stderr)
    return [], []


class BuildKernels(build_ext):
    """Compile the kernels once per instruction set and scalar type, then link the extension."""

    def build_extension(self, ext):
        compile_openmp, link_openmp = find_openmp(self.compiler)
        headers = [p.stat().st_mtime for p in CSRC.rglob("*.h")] + [Path("setup.py").stat().st_mtime]
        jobs = [(path, "common", [*CFLAGS, *compile_openmp], []) for path in sorted(CSRC.glob("*.c"))]
        for isa, flags in ISA_FLAGS.items():
            for real in ("f32", "f64"):
                macros = [("PYCONV_ISA", isa), ("PYCONV_REAL", real)]
                jobs += [(path, f"{isa}-{real}", [*CFLAGS, *KERNEL_FLAGS, *flags], macros)
                         for path in sorted((CSRC / "kernels").glob("*.c"))]

        def compile_one(job):
            path, variant, flags, macros = job
            folder = Path(self.build_temp, variant)
            target = folder / path.with_suffix(".o")
            if not target.exists() or target.stat().st_mtime < max([path.stat().st_mtime, *headers]):
                macros = [*macros, ("PYCONV_X86", "1")] if len(ISA_FLAGS) > 1 else macros
                self.compiler.compile([str(path)], output_dir=str(folder), macros=macros,
                                      include_dirs=[str(CSRC)], extra_postargs=flags)
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(compile_one, jobs))
        ext.depends = [*ext.depends, *ext.extra_objects]  # relink when only C has changed
        ext.extra_link_args = [*link_openmp, "-lpthread"]
        super().build_extension(ext)


setup(
    ext_modules=cythonize(
        [Extension("pyconv._kernels", ["pyconv/_kernels.pyx"], include_dirs=[str(CSRC)],
                   depends=sorted(str(path) for path in CSRC.rglob("*.[ch]")),
                   extra_compile_args=["-O2", "-fvisibility=hidden"])],
        compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False},
    ),
    cmdclass={"build_ext": BuildKernels},
)
