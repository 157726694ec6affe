"""Builds the native extension core._native._kernels: C++17 and nanobind, every kernel file once for each CPU level.

The extension is optional: without a C++17 compiler the install goes on, and `core.extension` says which path runs. All
else about the project is in pyproject.toml.
"""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nanobind
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("core") / "_native"
KERNELS = (
    "point",
    "bernoulli",
    "lowrank",
    "sweeps",
    "signs",
    "elimination",
    "batch",
)  # one file a family, once a level
PACKED = (
    "bitsum",
    "bitsum_limits",
    "packed_panels",
    "packed_moves",
)  # kernels of packed networks, likewise; their avx512 has two instruction sets more
HEADERS = tuple(sorted(path.name for path in SOURCES.glob("*.h")))
MODULE = "module"
BINDINGS = (
    "sweeps_module",
    "signs_module",
    "elimination_module",
    "batch_module",
    "bitsum_module",
    "packed_module",
)  # of each family, once
ENGINE = ("packed_engine", "packed_steps", "packed_sums", "packed_threads")  # calls the kernels of packed networks
# Without errno and traps, roots and selections vectorise. No contraction but where the source says so: then levels
# agree bit for bit.
OPTIMISED = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
COMMON = ["-std=c++17", "-fvisibility=hidden", "-g0"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
LEVELS = {"portable": []} | (
    {
        "avx2": ["-mavx2", "-mfma"],
        "avx512": [
            *["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
            "-mprefer-vector-width=512",
        ],
    }
    if X86
    else {}
)
PACKED_LEVELS = {"avx512": ["-mavx512vpopcntdq", "-mavx512vnni"]}  # beside those of LEVELS
BUNDLED = Path(nanobind.source_dir())
FLAGS = " | ".join(
    [
        " ".join(OPTIMISED),
        *(" ".join([level, *flags]) for level, flags in LEVELS.items()),
        *(" ".join(["packed", level, *flags]) for level, flags in PACKED_LEVELS.items() if level in LEVELS),
    ]
)


class BuildKernels(build_ext):
    """Compiles the kernels once a level, files side by side, and links them into the module."""

    def build_extension(self, ext: Extension) -> None:
        kernel, binding = [*COMMON, *OPTIMISED], ext.extra_compile_args
        files = [(BUNDLED / "nb_combined.cpp", "", [], binding)]
        files += [(SOURCES / f"{name}.cpp", "", [], binding) for name in BINDINGS]
        files += [(SOURCES / f"{name}.cpp", "", [], kernel) for name in ENGINE]
        for level, flags in LEVELS.items():
            macros = [("BITRELAX_LEVEL", level)]
            packed = [*kernel, *flags, *PACKED_LEVELS.get(level, [])]
            files += [(SOURCES / f"{name}.cpp", level, macros, [*kernel, *flags]) for name in KERNELS]
            files += [(SOURCES / f"{name}.cpp", level, macros, packed) for name in PACKED]

        def compiled(file: tuple[Path, str, list[tuple[str, str]], list[str]]) -> str:
            source, folder, macros, flags = file
            (made,) = self.compiler.compile(
                [str(source)],
                output_dir=os.path.join(self.build_temp, folder),
                include_dirs=ext.include_dirs + self.compiler.include_dirs,
                macros=[*macros, *ext.define_macros],
                extra_postargs=flags,
                depends=ext.depends,
            )
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(compiled, files))
        super().build_extension(ext)


setup(
    ext_modules=[
        Extension(
            "core._native._kernels",
            sources=[str(SOURCES / f"{MODULE}.cpp")],
            depends=[
                str(SOURCES / name)
                for name in (*HEADERS, *(f"{kernel}.cpp" for kernel in (*KERNELS, *PACKED, *ENGINE)))
            ],
            include_dirs=[nanobind.include_dir(), str(BUNDLED.parent / "ext" / "robin_map" / "include")],
            define_macros=[("NDEBUG", None), ("NB_COMPACT_ASSERTIONS", None)] + [("BITRELAX_X86", None)] * X86,
            extra_compile_args=[*COMMON, "-Os", "-fno-strict-aliasing", f'-DBITRELAX_FLAGS="{FLAGS}"'],
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
