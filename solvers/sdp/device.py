"""The descent of one dense problem on a torch device; bounds and proofs stay on the CPU, where LAPACK is known."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from solvers.sdp.batching.descent import BatchedDescent, Quadratics
from solvers.sdp.problem import Cost

PIECE = 10  # iterations between two reads of the residual, each of which waits for the device


class DeviceDescent:
    """`solvers.sdp.lbfgs.Descent` with the same state, by `BatchedDescent` of one task; without mixing sweeps.

    device: as torch names it. Raises ValueError for a sparse C or a device that torch does not offer here.
    """

    def __init__(self, cost: Cost, V: Float[np.ndarray, "n k"], device: str) -> None:
        if cost.sparse:
            raise ValueError(f"device={device!r}: only a dense C is solved there; sparse ones run on device='cpu'")
        check_device(device)
        self.cost, self.iterations = cost, 0
        self._off = torch.from_numpy(np.asarray(cost.off)).to(device)
        self.replace(V)

    def replace(self, V: Float[np.ndarray, "n k"], *, sweeps: int = 0) -> None:
        """Go on from another factor, of any number of columns."""
        self.rank = V.shape[1]
        self._descent = BatchedDescent(Quadratics(self._off), torch.from_numpy(np.array(V))[None])

    def run(self, iterations: int, *, residual: float = 0.0) -> None:
        """At most `iterations` more products with C; fewer once the residual is at most `residual` or rounding stops
        it."""
        end = self.iterations + iterations
        while self.iterations < end and self.residual > residual and not self.stalled:
            piece = min(PIECE, end - self.iterations)
            self._descent.run(piece)
            self.iterations += piece

    @property
    def V(self) -> Float[np.ndarray, "n k"]:
        """The factor, on the CPU."""
        return _array(self._descent.point.V[0].mT)

    @property
    def y(self) -> Float[np.ndarray, " n"]:
        """Multipliers <(CV)_i, v_i>."""
        return _array(self._descent.point.multipliers[0])

    @property
    def gradient(self) -> Float[np.ndarray, "n k"]:
        """(C - Diag y) V."""
        return _array(self._descent.point.tangent[0].mT)

    @property
    def value(self) -> float:
        """<C, VV'>, the constant included."""
        return float(self._descent.value[0]) + self.cost.constant

    @property
    def residual(self) -> float:
        """||(C - Diag y) V|| / ||C V||."""
        return float(self._descent.residual[0])

    @property
    def stalled(self) -> bool:
        """Whether rounding stops progress."""
        return bool(self._descent.stalled[0])


def check_device(device: str) -> None:
    """Raises ValueError, with what there is, for a device that cannot hold float64 numbers here, and for a number of
    the CPU ("cpu:0")."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (
        RuntimeError,
        AssertionError,
        TypeError,
    ) as error:  # no CUDA; no numbers (meta); no float64 (mps)
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used here: {reason}; use device='cpu'") from error
    if torch.device(device).type == "cpu" and device != "cpu":
        raise ValueError(f"device={device!r}: the CPU has no number here; use device='cpu'")


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = np.ascontiguousarray(tensor.cpu().numpy())
    return array
