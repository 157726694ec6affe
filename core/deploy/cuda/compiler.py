"""The CUDA sources, whole, and NVRTC without a device: machine code for a named architecture.

A device compiles the same text with the same options through CuPy. The library is that of the package
nvidia-cuda-nvrtc, which needs no driver.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("tile", "bit_mma", "few_rows", "moves", "rates")
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_90a")
OPTIONS = ("--std=c++17",)
PACKAGE = "nvidia-cuda-nvrtc"
_INCLUDE = re.compile(r'^#include "(\w+)\.h"\n', re.M)


class CompilerError(RuntimeError):
    """There is no NVRTC, or it refuses a source; the message holds its log."""


@cache
def source(name: str) -> str:
    """The text of one source with its own headers in place, each once: what NVRTC is given."""
    seen = {"host"}  # never on a device

    def inlined(text: str) -> str:
        return _INCLUDE.sub(lambda found: header(found[1]), text)

    def header(stem: str) -> str:
        if stem in seen:
            return ""
        seen.add(stem)
        return inlined((HERE / f"{stem}.h").read_text().replace("#pragma once\n", ""))

    return inlined((HERE / f"{name}.cu").read_text())


@cache
def kernels(name: str) -> tuple[str, ...]:
    """The kernels of one source, in its order."""
    return tuple(re.findall(r"^KERNEL\((\w+),", (HERE / f"{name}.cu").read_text(), re.M))


@cache
def source_of(kernel: str) -> str:
    """The source that has this kernel."""
    for name in SOURCES:
        if kernel in kernels(name):
            return name
    raise KeyError(f"no source has a kernel {kernel!r}")


def machine_code(text: str, architecture: str) -> bytes:
    """The cubin of `text` for an architecture such as "sm_90". Raises CompilerError."""
    nvrtc, program = _library(), ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None), nvrtc)
    try:
        options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}")]
        if nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)):
            log = _text(nvrtc, program, "ProgramLog")
            raise CompilerError(f"NVRTC does not compile for {architecture}:\n{log.decode().strip(chr(0))}")
        return _text(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), nvrtc)
    text = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, text), nvrtc)
    return text.raw


def _check(status: int, nvrtc: ctypes.CDLL) -> None:
    if status:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompilerError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status).decode()}")


@cache
def _library() -> ctypes.CDLL:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise CompilerError(f"{PACKAGE} is not installed; pip install 'bitrelax[gpu-check]' brings it") from None
    found = [file for file in files if re.fullmatch(r"libnvrtc\.so\.\d+", file.name)]
    if not found:
        raise CompilerError(f"{PACKAGE} holds no libnvrtc.so for this system")
    return ctypes.CDLL(str(found[0].locate()))
