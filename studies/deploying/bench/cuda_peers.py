"""torch on a GPU as a peer: products, convolutions and networks, captured as graphs, on rotating random buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studies.deploying.bench.clock import Sampler
from studies.deploying.bench.goals import Missing

Call = Callable[[], object]


@dataclass(frozen=True)
class Captured:
    """`copies` calls in one CUDA graph."""

    graph: torch.cuda.CUDAGraph
    copies: int

    def sampler(self, replays: int) -> Sampler:
        """Seconds of one call, by device events around `replays` of the graph."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def sample() -> float:
            start.record()
            for _ in range(replays):
                self.graph.replay()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / (replays * self.copies)

        return sample


def captured(calls: list[Call]) -> Captured:
    """The calls as one graph, after each has run three times. Raises Missing where torch refuses them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.inference_mode():
            with torch.cuda.stream(side):
                for _ in range(3):
                    for call in calls:
                        call()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for call in calls:
                    call()
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        raise Missing(f"torch {torch.__version__} does not run it here: {str(error).splitlines()[0][:200]}") from error
    return Captured(graph, len(calls))


def product(kind: str, rows: int, outputs: int, inputs: int, copies: int) -> Captured:
    """Products (rows, inputs) x (inputs, outputs) through cuBLAS: fp32 (no TF32), bf16, fp8 or int8."""
    return captured([_product(kind, rows, outputs, inputs) for _ in range(copies)])


def mlp(widths: tuple[int, ...], batch: int) -> Captured:
    """A bfloat16 network of these widths, relu in place."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True)]
    return _network(nn.Sequential(*layers[:-1]), torch.randn(batch, widths[0]))


def convolutions(channels: int, side: int, layers: int, batch: int) -> Captured:
    """`layers` 3 x 3 convolutions in bfloat16 through cuDNN, channels last, relu in place after each."""
    torch.backends.cudnn.benchmark = True  # its best algorithm
    blocks = [nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)) for _ in range(layers)]
    return _network(nn.Sequential(*blocks), torch.randn(batch, channels, side, side))


def copied_bytes_a_second(size: int = 1 << 30) -> float:
    """Bytes read and written a second by a device's own copy, median of 10: what memory gives here."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    sampler = captured([lambda: target.copy_(source)]).sampler(4)
    return 2 * size / sorted(sampler() for _ in range(10))[5]


def _product(kind: str, rows: int, outputs: int, inputs: int) -> Call:
    x, w = torch.randn(rows, inputs, device="cuda"), torch.randn(outputs, inputs, device="cuda")
    if kind == "int8":
        a, b = x.mul(30).to(torch.int8), w.mul(30).to(torch.int8).t()
        return lambda: torch._int_mm(a, b)
    if kind == "fp8":
        a8, b8, one = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn).t(), torch.ones((), device="cuda")
        return lambda: torch._scaled_mm(a8, b8, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    a, b = x.to(dtype), w.to(dtype)
    return lambda: F.linear(a, b)


def _network(model: nn.Module, x: Tensor) -> Captured:
    model = model.eval().requires_grad_(False).to("cuda", torch.bfloat16)
    x = x.to("cuda", torch.bfloat16)
    if x.dim() == 4:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return captured([lambda: model(x)])
