"""S8, S9, S12: what proofs cost: large random graphs, a large torus, the share of the certificate."""

from __future__ import annotations

from functools import partial

from solvers.bench.clock import interleaved
from solvers.bench.goals import Goal, Measured, Setting, ours, proven, words
from solvers.sdp.solution import Solution


def seconds(file: str, gap: float, factorisations: int | None, _setting: Setting) -> Measured:
    """Seconds to a proven gap, with at most so many dense factorisations."""
    timed = interleaved({"ours": ours(file, gap)})["ours"]
    few = factorisations is None or timed.result.factorisations <= factorisations
    return Measured(timed.median, f"{timed}, {words(timed.result)}", proven(timed.result, gap) and few)


def share(file: str, _setting: Setting) -> Measured:
    """Seconds of the certificate, estimates that steer it included, over all seconds to a proven 1e-6."""
    mine = ours(file, 1e-6)
    mine()
    runs: list[Solution] = []
    timed = interleaved({"ours": lambda: runs.append(mine())})["ours"]
    shares = sorted((run.seconds for run in runs), key=lambda s: s.certify / s.total)
    middle = shares[len(shares) // 2]
    detail = f"{timed}; {middle.certify:.3g} of {middle.total:.3g} s by the clock; {words(runs[-1])}"
    return Measured(middle.certify / middle.total, detail, all(proven(run, 1e-6) for run in runs))


def goals() -> list[Goal]:
    """S8, S9, S12."""
    return [
        Goal(
            "S8 G55", "G55 certified 1e-5, <= 2 factorisations", 3, "s", partial(seconds, "gset/G55.gz", 1e-5, 2), False
        ),
        Goal(
            "S8 maxG55",
            "maxG55 certified 1e-5, <= 2 factorisations",
            3,
            "s",
            partial(seconds, "sdplib/maxG55.dat-s.gz", 1e-5, 2),
            False,
        ),
        Goal("S9", "G57 certified 5e-6", 1.5, "s", partial(seconds, "gset/G57.gz", 5e-6, None), False),
        Goal(
            "S12 G22", "certificate's share of time to 1e-6, G22", 0.35, "share", partial(share, "gset/G22.gz"), False
        ),
        Goal(
            "S12 G32", "certificate's share of time to 1e-6, G32", 0.35, "share", partial(share, "gset/G32.gz"), False
        ),
    ]
