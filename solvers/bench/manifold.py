"""S5: the Riemannian trust region of pymanopt against ours."""

from __future__ import annotations

from functools import cache, partial

from solvers.bench.clock import Timed, interleaved, once
from solvers.bench.goals import Goal, Measured, Setting, instance, ours, proven, words
from solvers.bench.peers import TrustRegion, trust_region

GAP = 1e-6


def safe(file: str, _setting: Setting) -> Measured:
    """Seconds of the trust region at the safe rank, to a supported gap of 1e-7, over ours to a proven 1e-6."""
    (setting, _), timed = _raced(file)
    return _ratio(timed["ours"], timed["safe"], setting)


def tuned(file: str, _setting: Setting) -> Measured:
    """The peer at its best: the faster of two ranks, at the loosest norm of the gradient that supports 1e-6."""
    (_, setting), timed = _raced(file)
    return _ratio(timed["ours"], timed["tuned"], setting)


@cache
def _raced(file: str) -> tuple[tuple[TrustRegion, TrustRegion], dict[str, Timed]]:
    """Both settings of the peer, and their runs beside ours: two rows of the table are of the same runs."""
    C = instance(file).C
    settings = trust_region(C, GAP, once)
    mine = ours(file, GAP)
    mine()
    runs = {name: partial(setting.run, C) for name, setting in zip(("safe", "tuned"), settings, strict=True)}
    return settings, interleaved({"ours": mine} | runs)


def _ratio(mine: Timed, peer: Timed, setting: TrustRegion) -> Measured:
    detail = f"peer {peer} ({setting}); ours {mine}, {words(mine.result)}"
    return Measured(peer.median / mine.median, detail, proven(mine.result, GAP))


def goals() -> list[Goal]:
    """S5."""
    files = {"mcp500-3": ("sdplib/mcp500-3.dat-s.gz", 10), "G11": ("gset/G11.gz", 40), "G22": ("gset/G22.gz", 8)}
    return [
        goal
        for name, (file, target) in files.items()
        for goal in (
            Goal(f"S5 {name}", f"pymanopt trust region to 1e-7 / ours 1e-6, {name}", target, "x", partial(safe, file)),
            Goal(f"S5 {name} best", f"the same tuned to 1e-6 / ours 1e-6, {name}", target, "x", partial(tuned, file)),
        )
    ]
