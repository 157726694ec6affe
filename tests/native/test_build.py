"""How the extension is found: a clone runs its own files, built or not, whatever the environment has installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """Another clone of the packages, in which the extension was never built; the environment's install is of ours."""
    folder = tmp_path_factory.mktemp("clone")
    for package in ("core", "solvers", "methods", "studies"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


def said(clone: Path, program: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", program], cwd=clone, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_a_clone_imports_its_own_packages_and_a_method_added_after_the_install(clone):
    (clone / "methods" / "added_later.py").write_text("WHERE = __file__\n")
    printed, _ = said(clone, "import core, methods.added_later as added; print(core.__file__, added.WHERE)")
    assert printed == f"{clone / 'core' / '__init__.py'} {clone / 'methods' / 'added_later.py'}"


def test_without_the_extension_the_torch_path_runs_after_one_warning_that_says_why(clone):
    program = (
        "import warnings, torch; warnings.simplefilter('always')\n"
        "from core import extension\n"
        "from core.laws import Point\n"
        "from core.prefetch import Slots\n"
        "from solvers.fused import FusedAdam\n"
        "law = Point(torch.ones(3)); solver = FusedAdam([law], slots=Slots(), lr=0.1)\n"
        "for _ in range(3):\n"
        "    law.latents.grad = torch.ones(3); solver.step()\n"
        "print(extension.info().path, law.latents.tolist()[0] < 0.8)\n"
    )
    printed, complained = said(clone, program)
    assert printed == "torch True"
    assert complained.count("RuntimeWarning: bitrelax runs its slower twins in torch and NumPy") == 1
    assert "not built here" in complained and "C++17 compiler" in complained


def test_a_kernel_called_without_the_extension_says_what_to_ask_first(clone):
    program = (
        "import torch\nfrom core import native\n"
        "try:\n    native.point_bop(*[torch.ones(2)] * 3, adaptivity=0.1, threshold=0.0)\n"
        "except RuntimeError as error: print(error)\n"
    )
    printed, _ = said(clone, program)
    assert printed.startswith("a native kernel was called, but the native extension is not built here (")
    assert printed.endswith("); ask core.native.serves first")
