"""S5: the Riemannian trust region of pymanopt against ours."""

from __future__ import annotations

from functools import partial

from solvers.bench.clock import interleaved, once
from solvers.bench.goals import Goal, Measured, Setting, instance, ours, proven, words
from solvers.bench.peers import trust_region

GAP = 1e-6


def ratio(file: str, _setting: Setting) -> Measured:
    """Seconds of the trust region at the safe rank, to a gap of 1e-7, over ours to a proven 1e-6.

    The detail also gives the peer at its best: the faster of two ranks, at the loosest setting that supports 1e-6.
    """
    C = instance(file).C
    studied, best = trust_region(C, GAP, once)
    mine = ours(file, GAP)
    mine()
    timed = interleaved({"ours": mine, "peer": lambda: studied.run(C), "best": lambda: best.run(C)})
    seconds = timed["ours"].median
    detail = (
        f"peer {timed['peer']} ({studied}); its best setting for {GAP:g} {timed['best']} ({best}), "
        f"{timed['best'].median / seconds:.2g}x; ours {timed['ours']}, {words(timed['ours'].result)}"
    )
    return Measured(timed["peer"].median / seconds, detail, proven(timed["ours"].result, GAP))


def goals() -> list[Goal]:
    """S5."""
    files = {"mcp500-3": ("sdplib/mcp500-3.dat-s.gz", 10), "G11": ("gset/G11.gz", 40), "G22": ("gset/G22.gz", 8)}
    return [
        Goal(f"S5 {name}", f"pymanopt trust region / ours 1e-6, {name}", target, "x", partial(ratio, file))
        for name, (file, target) in files.items()
    ]
