"""What NVRTC makes of the kernels for every architecture, without a device: instructions, calls, registers."""

from collections.abc import Callable
from itertools import product

import pytest

from core.deploy.cuda.compiler import ARCHITECTURES, SOURCES, CompilerError, kernels, machine_code, source
from core.deploy.cuda.disassembly import Kernel, disassembled

MMA_A_STAGE = 64  # of 64 x 32 outputs and 1024 bits a warp: (64 / 16) (32 / 8) (1024 / 256)
PAIR_OF_BLOCKS = 128  # registers a thread: two blocks of 256 threads on the 65536 of a multiprocessor
OUTLINED = ("div_rn", "sync_")  # the slow path of a rounded quotient; a ballot or shuffle on sm_80 to sm_89


def compiled(name: str, architecture: str) -> dict[str, Kernel]:
    try:
        return disassembled(machine_code(source(name), architecture))
    except CompilerError as error:
        if "is not installed" in str(error):
            pytest.skip(str(error))
        raise


def emulated(code: Kernel) -> list[str]:
    """The functions it calls in place of instructions that the device lacks."""
    return [call for call in code.calls() if not any(known in call for known in OUTLINED)]


LATER = [(name, "sm_120") for name in ("tile", "few_rows", "moves")]  # what runs where bit tensor cores are gone


@pytest.mark.parametrize(("name", "architecture"), [*product(SOURCES, ARCHITECTURES), *LATER])
def test_kernels_are_the_instructions_they_are_written_for(name: str, architecture: str) -> None:
    """One test a source and architecture, because compiling takes a second or two."""
    found = compiled(name, architecture)
    assert set(found) == set(kernels(name)) and found
    for kernel, code in found.items():
        assert len(code.instructions) > 10, kernel
        assert code.count("LDL") == code.count("STL") == 0, f"{kernel} spills to local memory"
        assert code.registers <= PAIR_OF_BLOCKS, kernel
        if kernel != "rate_mma_xor":
            assert not emulated(code), kernel
    CHECKS[name](found, architecture)


def check_bit_mma(found: dict[str, Kernel], architecture: str) -> None:
    for kernel, code in found.items():
        assert code.count(r"BMMA\.168256\.AND\.POPC ") == MMA_A_STAGE, kernel
        assert code.count("LDGSTS") > 0, f"{kernel} copies to shared memory through registers"


def check_tile(found: dict[str, Kernel], architecture: str) -> None:
    for kernel in ("bits_linear_tile", "bits_conv_tile"):
        pops = found[kernel].count("POPC")
        assert pops >= 128, kernel  # 16 outputs a thread, 8 units without a jump between
        assert pops > 4 * found[kernel].count(r"LDS\.128"), kernel
    for kernel in ("bytes_linear_tile", "bytes_conv_tile"):
        assert found[kernel].count(r"IDP\.4A\.U8\.U8 ") >= 128, kernel


def check_few_rows(found: dict[str, Kernel], architecture: str) -> None:
    for kernel, code in found.items():
        assert code.count(r"LDG\.E\.128") >= 4, f"{kernel} reads weights in less than 16 bytes"


def check_moves(found: dict[str, Kernel], architecture: str) -> None:
    """An affine map is a product and a sum, never one fused operation."""
    for kernel in ("affine_i32", "affine_f32"):
        code = found[kernel]
        assert (code.count("FMUL"), code.count("FADD"), code.count("FFMA")) == (1, 1, 0), kernel
        assert code.count(r"(FMUL|FADD)\.FTZ") == 0, f"{kernel} flushes denormals"


def check_rates(found: dict[str, Kernel], architecture: str) -> None:
    """xor is emulated from sm_90 on, which is why the kernels are written with and; the check above would see it."""
    xor = found["rate_mma_xor"]
    assert found["rate_mma_and"].count(r"BMMA\.168256\.AND\.POPC ") >= 8
    if architecture < "sm_90":
        assert xor.count(r"BMMA\.168256\.XOR\.POPC ") >= 8 and not emulated(xor)
    else:
        assert all("mma" in call for call in emulated(xor)) and emulated(xor)


CHECKS: dict[str, Callable[[dict[str, Kernel], str], None]] = {
    "tile": check_tile,
    "bit_mma": check_bit_mma,
    "few_rows": check_few_rows,
    "moves": check_moves,
    "rates": check_rates,
}


def test_a_source_that_does_not_compile_is_refused_with_the_log_and_the_architecture() -> None:
    compiled("rates", "sm_80")  # skips without NVRTC
    with pytest.raises(CompilerError, match=r"(?s)sm_80.*nonsense"):
        machine_code("nonsense", "sm_80")
    with pytest.raises(CompilerError, match="sm_12345"):
        machine_code(source("rates"), "sm_12345")
