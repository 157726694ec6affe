"""S6, S7: interior-point binaries and LoRADS, run as children right after ours."""

from __future__ import annotations

from functools import partial

from solvers.bench.clock import interleaved
from solvers.bench.goals import Goal, Measured, Setting, folder, ours, proven, words
from solvers.bench.peers import binary, child


def ratio(peer: str, file: str, gap: float, setting: Setting) -> Measured:
    """CPU seconds of the child, reading its file included, over those of ours."""
    path = binary(peer, setting)
    mine = ours(file, gap)
    mine()
    with child(path, folder() / file) as run:
        timed = interleaved({"ours": mine, "peer": run})
    detail = f"peer {timed['peer']}; ours {timed['ours']}, {words(timed['ours'].result)}"
    return Measured(timed["peer"].median / timed["ours"].median, detail, proven(timed["ours"].result, gap))


def goals() -> list[Goal]:
    """S6, S7."""
    eleven = "sdplib/maxG11.dat-s.gz"
    inner = [("csdp", "CSDP", 20), ("sdpa", "SDPA", 25), ("dsdp5", "DSDP", 8)]
    low_rank = "sdplib/max{}.dat-s.gz"
    low = [("G11", 1.5), ("G32", 2), ("G55", 1.3)]
    return [
        *(
            Goal(f"S6 {name}", f"{name} / ours 1e-6, G11", target, "x", partial(ratio, peer, eleven, 1e-6))
            for peer, name, target in inner
        ),
        *(
            Goal(
                f"S7 {name}",
                f"LoRADS / ours 1e-5, max{name}",
                target,
                "x",
                partial(ratio, "lorads", low_rank.format(name), 1e-5),
            )
            for name, target in low
        ),
    ]
