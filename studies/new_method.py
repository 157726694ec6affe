"""python -m studies.new_method NAME: writes a working method file and its test, to be changed into one's own.

By default methods/NAME.py and tests/methods/test_NAME.py of this checkout; with --folder both into DIR, for a package
of one's own.
"""

from __future__ import annotations

import argparse
import keyword
import sys
from collections.abc import Sequence
from pathlib import Path

from methods import GROUP, MethodError, check_name, names

ROOT = Path(__file__).parents[1]

METHOD = '''"""NAME: one sentence on what it is, then whose it is.

This example: weights tanh(latent / temperature), annealed into signs.
"""

import torch

from core.claims import binary_coordinates, real_parameters
from core.geometry import Box
from core.interface import Method, Reading, Rng
from core.laws import Point, initial_uniform
from core.ops import ClippedStraightThrough, RelaxedSign
from core.predict import mode
from core.readings import Draw, SignActivation
from methods import register
from solvers.geometric import GeometricAdam, real_solvers


@register("NAME")
def FUNCTION(
    *,
    lr: float = 1e-2,
    warm: float = 1.0,
    cold: float = 0.1,
    slope_window: float = 1.0,
) -> Method:
    """lr: Adam's rate. warm, cold: the first and the last temperature of the weights.

    slope_window: where the slope of a binary activation is 1.
    """
    if not 0 < cold <= warm:
        raise ValueError(f"cold must be in (0, warm = {warm}] (got {cold})")
    activations = SignActivation(ClippedStraightThrough(slope_window))

    # what a weight is: here sign(latent), the latents in [-1, 1]
    def law(shape: torch.Size, rng: Rng) -> Point:
        return Point(initial_uniform(shape, rng), geometry=Box(1.0))

    # how a training pass reads weights and activations, at progress 0 .. 1
    def train(progress: float) -> Reading:
        temperature = warm * (cold / warm) ** progress
        return Reading(Draw(RelaxedSign(temperature)), activations)

    return Method(
        law=law,
        train=train,
        # how parameters move; every one must be claimed exactly once
        solvers=lambda model, budget: [
            GeometricAdam(binary_coordinates(model), lr=lr),
            *real_solvers(real_parameters(model)),
        ],
        # how it predicts; "mode" comes first and is what gets exported
        predictors=[mode(activations)],
    )
'''

TEST = '''"""NAME keeps every law of the conformance kit."""

from collections.abc import Callable

import pytest

from methods.conformance import CHECKS


@pytest.mark.parametrize("law", CHECKS)
def test_FUNCTION_conforms(law: Callable[..., None]) -> None:
    law("NAME")
'''


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the two files and say what to do next; 0, or 2 with one message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m studies.new_method", description="Write a method and its test.")
    parser.add_argument("name", metavar="NAME", help="lower-case words joined by '-', e.g. my-method")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="write both files there (a package of your own)")
    options = parser.parse_args(arguments)
    try:
        method, test = write(options.name, options.folder)
    except (MethodError, OSError) as error:
        print(f"new_method: {error}", file=sys.stderr)
        return 2
    print("\n".join(_next_steps(options.name, method, test, options.folder)))
    return 0


def write(name: str, folder: Path | None) -> tuple[Path, Path]:
    """The method file and the test file of a new method `name`, written.

    Raises MethodError for a name that cannot serve or is taken, FileExistsError before anything is overwritten.
    """
    check_name(name)
    if name in names():
        raise MethodError(f"method {name!r} exists already; choose another name")
    function = name.replace("-", "_")
    if keyword.iskeyword(function):
        raise MethodError(f"method name {name!r} is a Python keyword, and the factory is a function of that name")
    method = (folder or ROOT / "methods") / f"{function}.py"
    test = (folder or ROOT / "tests" / "methods") / f"test_{function}.py"
    for path in (method, test):
        if path.exists():
            raise FileExistsError(f"{path} exists already; nothing was written")
    for path, template in ((method, METHOD), (test, TEST)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.replace("NAME", name).replace("FUNCTION", function))
    return method, test


def _next_steps(name: str, method: Path, test: Path, folder: Path | None) -> list[str]:
    entry = f'{name} = "{method.stem}"'
    change = f"change {method}; the example trains as it is"
    if folder is not None:
        change += f', once your pyproject.toml has [project.entry-points."{GROUP}"] {entry} and is installed'
    return [
        change,
        f"python -m pytest -n 0 {test}",
        f"python -m studies.compare --methods ste,{name} --problems digits",
    ]


if __name__ == "__main__":
    sys.exit(main())
