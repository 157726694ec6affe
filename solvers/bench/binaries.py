"""S6, S7: interior-point binaries and LoRADS, run as children right after ours."""

from __future__ import annotations

from functools import partial

from solvers.bench.clock import interleaved
from solvers.bench.goals import Goal, Measured, Setting, instance, path_of, proven, words
from solvers.bench.peers import BINARIES, binary, child
from solvers.sdp.files.readers import read
from solvers.sdp.solution import Solution
from solvers.sdp.solver import solve


def ratio(peer: str, file: str, gap: float, setting: Setting) -> Measured:
    """CPU seconds of the child over those of ours; both read the file, ours from its gzip."""
    path, packed = binary(peer, setting), path_of(file)

    def ours() -> Solution:
        return solve(read(packed).folded().C, gap=gap)

    ours()
    with child(peer, path, packed) as run:
        timed = interleaved({"ours": ours, "peer": run})
    found: Solution = timed["ours"].result
    accuracy = _accuracy(file, found, BINARIES[peer].value(timed["peer"].result))
    detail = f"peer {timed['peer']}, {accuracy}; ours with its reading {timed['ours']}, {words(found)}"
    return Measured(timed["peer"].median / timed["ours"].median, detail, proven(found, gap))


def _accuracy(file: str, found: Solution, value: float | None) -> str:
    """Where a peer's objective lies beside the interval of ours."""
    if value is None:
        return "which printed no value"
    low, high = sorted((instance(file).objective(found.value), instance(file).bound(found.bound)))
    beyond = max(low - value, value - high, 0.0) / max(1.0, abs(value))
    kind = "proven" if found.proven else "estimated"
    place = f"off by {beyond:.0e} from" if beyond else "in"
    return f"its value {value:.9g} {place} the {kind} [{low:.9g}, {high:.9g}]"


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
