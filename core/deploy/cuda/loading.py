"""Kernels as files of machine code for one device, compiled by CuPy's NVRTC and kept between processes.

Not by `RawModule(code=...)`: that appends -ftz=true, and an affine map of denormals would no longer be torch's.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from core.deploy.cuda.compiler import OPTIONS, source
from core.deploy.cuda.launcher import DeviceError


def cubin(name: str, capability: tuple[int, int]) -> Path:
    """The file with the kernels of one source. Raises DeviceError without NVRTC, and with its log where it refuses."""
    nvrtc = _nvrtc()
    options = (*OPTIONS, f"--gpu-architecture=sm_{capability[0]}{capability[1]}")
    told = "\0".join([source(name), *options, str(nvrtc.getVersion())])
    path = _folder() / f"bitrelax-{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.cubin"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(_compiled(nvrtc, source(name), options))
        part.replace(path)  # whole, or not there
    return path


def _compiled(nvrtc: Any, text: str, options: tuple[str, ...]) -> bytes:
    program = nvrtc.createProgram(text, "kernels.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        code: bytes = nvrtc.getCUBIN(program)
        return code
    except nvrtc.NVRTCError as error:
        version = ".".join(map(str, nvrtc.getVersion()))
        raise DeviceError(
            f"NVRTC {version} does not compile the kernels with {' '.join(options)} "
            f"({error}; {nvrtc.getProgramLog(program).strip()}); update cupy, or use backend='native'"
        ) from None
    finally:
        nvrtc.destroyProgram(program)


def _nvrtc() -> Any:
    """CuPy's binding of NVRTC, with the library found."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            f"CuPy finds no NVRTC to compile the kernels with ({str(error).strip()}); "
            "pip install -e '.[gpu]' in the clone brings it, or use backend='native'"
        ) from None
    return nvrtc


@cache
def _folder() -> Path:
    """CuPy's own cache, or, where nothing can be written there, one that the system clears."""
    folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="bitrelax-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="bitrelax-"))
