"""The parent's side of Larq Compute Engine: one child process for the whole bench, asked for runs between ours."""

from __future__ import annotations

import json
import math
import os
import select
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from studies.deploying.bench.clock import Sampler
from studies.deploying.bench.goals import Failed, Missing

SCRIPT = Path(__file__).with_name("larq_child.py")
MODES = {"indirect": "use_indirect_bgemm, its best", "default": "its default"}
PATIENCE = 180.0  # seconds for an answer: the first of a case converts a network
VARIABLES = {
    "TF_USE_LEGACY_KERAS": "1",  # larq is of Keras 2
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Answer:
    """CPU seconds of each run of a case in a mode, and the bytes of its converted network."""

    seconds: tuple[float, ...]
    size: int


@dataclass
class Larq:
    """A running child. versions: of larq-compute-engine, larq and tensorflow."""

    process: subprocess.Popen[str]
    versions: dict[str, str]

    def sampler(self, case: str, mode: str, *, least: float) -> Sampler:
        """Median seconds of the child's runs, as many as take `least` seconds, and 3 at least.

        Raises Failed for a case that it cannot run.
        """
        once = statistics.median(self.ask(case, mode, 3).seconds)  # the first request converts and warms up
        repeats = max(3, math.ceil(least / once))
        return lambda: statistics.median(self.ask(case, mode, repeats).seconds)

    def size(self, case: str) -> int:
        """Bytes of a case's converted network."""
        return self.ask(case, "default", 0).size

    def ask(self, case: str, mode: str, repeats: int) -> Answer:
        """One request. Raises Failed."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(f"{case} {mode} {repeats}\n")
            stdin.flush()
        except BrokenPipeError:
            raise Failed("Larq Compute Engine's process has ended") from None
        return parsed(_line(stdout))

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def parsed(line: str) -> Answer:
    """The child's answer. Raises Failed for its error, or for what is no answer."""
    answer = _object(line)
    if "error" in answer:
        raise Failed(f"Larq Compute Engine: {answer['error']}")
    seconds, size = answer.get("seconds"), answer.get("bytes")
    if not isinstance(seconds, list) or not all(isinstance(s, float) and s > 0 for s in seconds) or size is None:
        raise Failed(f"Larq Compute Engine answered {line.strip()[:200]!r}")
    return Answer(tuple(seconds), int(size))


@contextmanager
def started(python: str | None) -> Iterator[Larq | Missing | Failed]:
    """The child, run by an interpreter that has Larq Compute Engine, or why there is none."""
    if python is None:
        yield Missing("Larq Compute Engine was not run: --peer-python PYTHON names an interpreter that has it")
        return
    words = [python, "-I", "-u", str(SCRIPT)]  # -I: none of our folders is on its path
    pipe, environment = subprocess.PIPE, {**os.environ, **VARIABLES}
    with tempfile.TemporaryFile("w+") as said:  # a pipe that nobody reads would stop it
        try:
            process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=said, text=True, env=environment)
        except OSError as error:
            yield Missing(f"Larq Compute Engine: the interpreter of --peer-python: {error.strerror}")
            return
        with process:
            try:
                yield _greeted(process, said)
            finally:
                process.terminate()


def _greeted(process: subprocess.Popen[str], complaints: IO[str]) -> Larq | Failed:
    assert process.stdout is not None
    try:
        return Larq(process, _object(_line(process.stdout))["versions"])
    except (Failed, KeyError):
        process.kill()
        process.wait()
        complaints.seek(0)
        lines = complaints.read().split("\n")  # the last says what; those before name files of this machine
        said = next((line.strip()[-300:] for line in reversed(lines) if line.strip()), "it said nothing")
        return Failed(f"Larq Compute Engine: the interpreter of --peer-python could not run it: {said}")


def _line(stream: IO[str]) -> str:
    """The child's next line. Raises Failed where none comes."""
    ready, _, _ = select.select([stream], [], [], PATIENCE)
    if not ready:
        raise Failed(f"Larq Compute Engine said nothing for {PATIENCE:g} s")
    if not (line := stream.readline()):
        raise Failed("Larq Compute Engine's process has ended")
    return line


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Failed(f"Larq Compute Engine answered {line.strip()[:200]!r}")
    return found
