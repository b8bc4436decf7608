"""What pyproject.toml cannot say: the extension, its sources, and the flags of each instruction set.

Every file of ``csrc/kernels`` is compiled once per instruction set and scalar type, with the names
``PYCONV_ISA`` and ``PYCONV_REAL`` defined; the rest of ``csrc`` and the Cython module are compiled
once, for the architecture's ABI default. ``csrc/cpu.c`` picks one of the kernel tables at run time.

``python setup.py selftest`` runs the kernels' C tests, which need no Python: ``--runner qemu-aarch64
--cc aarch64-linux-gnu-gcc`` on another architecture, ``--sanitize address,undefined`` under sanitizers.
"""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC, SELFTEST = Path("csrc"), Path("tests", "selftest")
CYTHON = [Path("pyconv", "_kernels.pxd"), *Path("pyconv", "_calls").glob("*.pxi")]  # parts of _kernels.pyx
CFLAGS = ["-std=gnu11", "-O3", "-g0", "-Wall", "-Wextra", "-fvisibility=hidden", "-fno-math-errno",
          *os.environ.get("PYCONV_CFLAGS", "").split()]  # fmt: skip
# Without -ffp-contract=fast a*b + c is not fused; -fno-trapping-math lets comparisons vectorise.
KERNEL_FLAGS = ["-ffp-contract=fast", "-fno-trapping-math"]
AVX2 = ["-mavx2", "-mfma", "-mbmi2"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512"]
X86_LEVELS = {"baseline": [], "avx2": AVX2, "avx512": AVX512}
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
    stars = "*" * 78
    print(f"{stars}\npyconv: no working OpenMP found: building WITHOUT threads (slower).\n{stars}", file=sys.stderr)
    return [], []


def compile_csrc(compiler, folder, machine, sources, flags):
    """Compile `sources`, and the kernels once per instruction set and scalar type; the object files.

    sources: (path, its flags) of each; flags: of all. What is newer than its source and all headers is kept.
    """
    x86 = machine.lower() in ("x86_64", "amd64")
    jobs = [(path, "common", source_flags, []) for path, source_flags in sources]
    for isa, isa_flags in (X86_LEVELS if x86 else {"baseline": []}).items():
        for real in ("f32", "f64"):
            macros = [("PYCONV_ISA", isa), ("PYCONV_REAL", real)]
            kernel_flags = [*KERNEL_FLAGS, *isa_flags]
            jobs += [(path, f"{isa}-{real}", kernel_flags, macros) for path in sorted((CSRC / "kernels").glob("*.c"))]
    headers = [*CSRC.rglob("*.h"), *SELFTEST.glob("*.h"), Path("setup.py")]
    newest = max(path.stat().st_mtime for path in headers)

    def compile_one(job):
        path, variant, job_flags, macros = job
        target = Path(folder, variant, path.with_suffix(".o"))
        if not target.exists() or target.stat().st_mtime < max(path.stat().st_mtime, newest):
            macros = [*macros, ("PYCONV_X86", "1")] if x86 else macros
            compiler.compile([str(path)], output_dir=str(Path(folder, variant)), macros=macros,
                             include_dirs=[str(CSRC)], extra_postargs=[*CFLAGS, *job_flags, *flags])  # fmt: skip
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, jobs))


class BuildKernels(build_ext):
    """Compile the kernels, then link the extension."""

    def build_extension(self, ext):
        compile_openmp, link_openmp = find_openmp(self.compiler)
        sources = [(path, compile_openmp) for path in sorted(CSRC.glob("*.c"))]
        ext.extra_objects = compile_csrc(self.compiler, self.build_temp, platform.machine(), sources, [])
        ext.depends = [*ext.depends, *ext.extra_objects]  # relink when only C has changed
        ext.extra_link_args = [*link_openmp, "-lpthread"]
        super().build_extension(ext)


class SelfTest(build_ext):
    """Link tests/selftest with the kernels and run it."""

    description = "run the kernels' C tests (tests/selftest)"
    user_options = [
        *build_ext.user_options,
        ("cc=", None, "another compiler than the extension's; its target decides the instruction sets"),
        ("runner=", None, "what runs the program, which is then linked statically: an emulator"),
        ("sanitize=", None, "sanitizers, as -fsanitize= takes them"),
    ]

    def initialize_options(self):
        super().initialize_options()
        self.cc, self.runner, self.sanitize = None, "", None

    def build_extension(self, ext):
        folder, machine, flags = self.build_temp, platform.machine(), []
        if self.cc:
            self.compiler.set_executables(compiler_so=self.cc, linker_exe=self.cc)
            target = subprocess.run([self.cc, "-dumpmachine"], check=True, text=True, stdout=subprocess.PIPE).stdout
            folder, machine = str(Path(folder, Path(self.cc).name)), target.partition("-")[0]
        if self.sanitize:
            folder = str(Path(folder, self.sanitize))
            flags = [f"-fsanitize={self.sanitize}", "-O1", "-g1", "-fno-sanitize-recover=all"]
        # memory.c and parallel.c are left out: the test has its own
        sources = [(path, []) for path in [CSRC / "cpu.c", *sorted(SELFTEST.glob("*.c"))]]
        objects = compile_csrc(self.compiler, folder, machine, sources, flags)
        self.compiler.link_executable(objects, "selftest", folder, libraries=["m", "pthread"],
                                      extra_postargs=[*flags, *(["-static"] if self.runner else [])])  # fmt: skip
        subprocess.run([*shlex.split(self.runner), str(Path(folder, "selftest"))], check=True)


setup(
    ext_modules=cythonize(
        [
            Extension(
                "pyconv._kernels",
                ["pyconv/_kernels.pyx"],
                include_dirs=[str(CSRC)],
                depends=sorted(map(str, [*CSRC.rglob("*.[ch]"), *CYTHON])),
                extra_compile_args=["-O2", "-fvisibility=hidden"],
            )
        ],
        compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False},
    ),
    cmdclass={"build_ext": BuildKernels, "selftest": SelfTest},
)
