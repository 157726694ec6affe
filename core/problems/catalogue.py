"""Problems by name: the built-in ones, `idx:FOLDER` and `npz:FILE`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.problems import image_files, known_files, npz
from core.problems.assemble import Source, assemble
from core.problems.built_in import BUILT_IN
from core.problems.interface import Description, Problem, UnknownProblem

DATA_VARIABLE = "BITRELAX_DATA"
OWN_DATA = "Your own data: idx:FOLDER (train-/t10k- idx files) or npz:FILE (arrays x, y; optionally x_test, y_test)."


@dataclass(frozen=True)
class OwnData:
    """A kind of problem made of a user's files: KIND:PLACE. locate looks for the files, read reads them."""

    title: str
    locate: Callable[[str, Path], object]
    read: Callable[[str, Path], Source]


OWN_KINDS: Mapping[str, OwnData] = {
    "idx": OwnData("idx images in {}", image_files.locate_folder, image_files.read_folder),
    "npz": OwnData("arrays in {}", npz.locate, npz.read),
}


def names() -> tuple[str, ...]:
    """The built-in problems, those without files first."""
    return tuple(BUILT_IN)


def describe(name: str) -> Description:
    """What is known of a problem without reading data. Raises UnknownProblem."""
    kind, _, place = name.partition(":")
    if name in BUILT_IN:
        return BUILT_IN[name].description
    if kind in OWN_KINDS and place:
        title = OWN_KINDS[kind].title.format(place)
        return Description(name=name, title=title, network_options={"widths": (256, 256)}, batch=64, epochs=20)
    raise UnknownProblem(_unknown_message(name))


def load(name: str, data_dir: Path | None) -> Problem:
    """The problem, its tensors on the CPU. data_dir: the folder of file problems; None means BITRELAX_DATA.

    Raises UnknownProblem, or ProblemUnavailable where its data are missing, malformed or not the expected ones.
    """
    description, source = describe(name), _read(name, data_dir)
    built_in = BUILT_IN.get(name)
    if built_in is None:
        return assemble(description, source)
    return assemble(description, source, form=built_in.form, split=built_in.split)


def checksums(name: str, data_dir: Path | None) -> dict[str, str]:
    """SHA-256 hex digests of the data a result depends on: of file contents (uncompressed idx), or of embedded arrays.

    Reads the data once (MNIST: half a second). Raises what `load` raises.
    """
    return dict(_read(name, data_dir).checksums)


def locate(name: str, data_dir: Path | None) -> None:
    """Raises ProblemUnavailable, as `load` would, where a file of the problem is absent; opens none."""
    description = describe(name)
    if name in BUILT_IN:
        known_files.locate(description, _root(data_dir))
    else:
        kind, path = _own(name)
        kind.locate(name, path)


def _read(name: str, data_dir: Path | None) -> Source:
    description = describe(name)
    if name in BUILT_IN:
        return BUILT_IN[name].read(description, _root(data_dir))
    kind, path = _own(name)
    return kind.read(name, path)


def _root(data_dir: Path | None) -> Path | None:
    if data_dir is not None:
        return data_dir.expanduser()
    variable = os.environ.get(DATA_VARIABLE)
    return Path(variable).expanduser() if variable else None


def _own(name: str) -> tuple[OwnData, Path]:
    kind, _, place = name.partition(":")
    return OWN_KINDS[kind], Path(place).expanduser()


def _unknown_message(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), BUILT_IN, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown problem {name!r}{hint}\nProblems: {', '.join(BUILT_IN)}.\n{OWN_DATA}"
