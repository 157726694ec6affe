"""What a compiled kernel is made of: its instructions and registers, read from machine code without a device."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from core.deploy.cuda.compiler import CompilerError

PACKAGE = "nvidia-cuda-nvdisasm"
_REGISTERS = re.compile(r"EIATTR_REGCOUNT\n(?:.*\n){4,8}?.*index@\((\w+)\)\n.*\.word\s+0x([0-9a-f]+)")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?!\.)(.*?)\s*;")
_SECTION = re.compile(r"^//-+ \.text\.(\w+)\s+-+$", re.M)


class Kernel(NamedTuple):
    """Instructions in order, each with its operands; 32-bit registers a thread."""

    instructions: tuple[str, ...]
    registers: int

    def count(self, pattern: str) -> int:
        """How many instructions match from their start, a predicate aside."""
        return sum(1 for text in self.instructions if re.match(rf"(@!?\w+ )?{pattern}", text))

    def calls(self) -> list[str]:
        """The functions it calls: emulations of what the device lacks. Jumps within the kernel are none."""
        found = (re.match(r"(?:@!?\w+ )?CALL\.\S+ `\((.*)\)", text) for text in self.instructions)
        return [call[1] for call in found if call and not call[1].startswith(".L_")]


def disassembled(cubin: bytes) -> dict[str, Kernel]:
    """The kernels of a cubin by name. Raises CompilerError without nvdisasm."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.cubin"
        path.write_bytes(cubin)
        ran = subprocess.run([_tool(), str(path)], capture_output=True, text=True)
    if ran.returncode:
        raise CompilerError(f"nvdisasm: {ran.stderr.strip()}")
    registers = {name: int(count, 16) for name, count in _REGISTERS.findall(ran.stdout)}
    parts = _SECTION.split(ran.stdout)
    return {
        name: Kernel(_instructions(text), registers[name]) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _instructions(text: str) -> tuple[str, ...]:
    return tuple(found.strip() for found in _INSTRUCTION.findall(text))


@cache
def _tool() -> str:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise CompilerError(f"{PACKAGE} is not installed; pip install 'bitrelax[gpu-check]' brings it") from None
    found = [str(file.locate()) for file in files if file.name == "nvdisasm"]
    if not found:
        raise CompilerError(f"{PACKAGE} holds no nvdisasm for this system")
    return found[0]
