"""What the runner's tests share: small real cells, misbehaving methods as a real plugin, runs without a terminal."""

import copy
import sys
import textwrap
from pathlib import Path

import pytest

import methods
from core import architectures, problems
from studies.runner.cells import Cell
from studies.runner.execute import examine, execute
from studies.runner.records import Store

PLUGIN = '''
    """Methods that misbehave, each in one way; otherwise they are ste."""

    import dataclasses, os, signal, time
    from pathlib import Path

    import torch

    from core.architectures import real_law
    from core.interface import Prepared
    from methods import make, register


    def ste_with(**changes):
        return dataclasses.replace(make("ste"), **changes)


    @register("killing")
    def killing(*, folder: str = "", times: int = 0):
        """Kills its worker the first `times` times; counts its runs in `folder`."""

        def prepare(given):
            (Path(folder) / f"run-{time.time_ns()}").touch()
            if len(list(Path(folder).glob("run-*"))) <= times:
                os.kill(os.getpid(), signal.SIGKILL)
            return Prepared()

        return ste_with(prepare=prepare)


    @register("slow")
    def slow(*, seconds: float = 0.2):
        """Sleeps first."""

        def prepare(given):
            time.sleep(seconds)
            return Prepared()

        return ste_with(prepare=prepare)


    @register("raising")
    def raising(*, folder: str = ""):
        """Fails until `folder` holds a file called repaired."""

        def prepare(given):
            if not (Path(folder) / "repaired").exists():
                raise RuntimeError("out of luck\\nsecond line")
            return Prepared()

        return ste_with(prepare=prepare)


    @register("diverging")
    def diverging(*, at: float = 0.5):
        """Its loss is nan from half of the run on."""
        return ste_with(step=lambda model, context, rng: torch.tensor(0.25 if context.progress < at else torch.nan))


    @register("boasting")
    def boasting():
        """Real weights under a rule that declares one bit."""
        return ste_with(law=real_law, solvers=make("full-precision").solvers)


    @register("choosy")
    def choosy():
        """Fits no problem."""
        return ste_with(supports=lambda problem: f"needs 1000 classes, not {problem.classes}")
'''
NAMES = ("killing", "slow", "raising", "diverging", "boasting", "choosy")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A distribution with misbehaving methods, on sys.path here and so in every worker."""
    folder = tmp_path / "site"
    info = folder / "misbehaving-0.3.dist-info"
    info.mkdir(parents=True)
    (folder / "misbehaving.py").write_text(textwrap.dedent(PLUGIN))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 0.3\n")
    entries = "\n".join(f"{name} = misbehaving" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[bitrelax.methods]\n{entries}\n")
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in NAMES:
        methods._FACTORIES.pop(name, None)
    sys.modules.pop("misbehaving", None)


@pytest.fixture
def cell():
    """cell(method, seed=0, ..., lr=...) -> a resolved cell that trains in well under a second."""

    def make(method="ste", *, seed=0, problem="breast-cancer", epochs=2, widths=(16,), **hyperparameters):
        defaults = {name: p.default for name, p in methods.signature(method).items()}
        return Cell(
            study="test",
            problem=problem,
            method=method,
            seed=seed,
            network={"name": "mlp", **architectures.defaults("mlp"), "widths": widths},
            hyperparameters={**defaults, **hyperparameters},
            budget={"epochs": epochs},
            batch=32,
            schedule=problems.describe(problem).schedule,
        )

    return make


class Reporting:
    """A reporter that remembers."""

    def __init__(self):
        self.begun, self.ended, self.warnings = [], [], []

    def started(self, cell):
        self.begun.append(cell)

    def finished(self, cell, record):
        self.ended.append((cell, record["status"]))

    def warning(self, text):
        self.warnings.append(text)


@pytest.fixture
def run():
    """run(cells, out) -> (records, reporter, store), as the command does it."""

    def whole(cells, out, *, backend="serial", workers=2, keep_states=True, data_dir=None, reuse_stale=False):
        store, reporter = Store(Path(out)), Reporting()
        verdicts = examine(cells, store, data_dir, reuse_stale=reuse_stale, keep_states=keep_states)
        records = execute(
            verdicts,
            store,
            data_dir=data_dir,
            backend=backend,
            workers=workers,
            keep_states=keep_states,
            reporter=reporter,
        )
        return records, reporter, store

    return whole


@pytest.fixture
def numbers():
    """numbers(record) -> the record without what a clock, a machine or memory decides."""

    def strip(record):
        kept = copy.deepcopy(record)
        for name in ("seconds", "peak_memory_mb", "machine", "checksum"):
            del kept[name]
        for point in kept["curve"]:
            del point["seconds"]
        for read in kept["test_reads"]:
            del read["at"]
        return kept

    return strip
