"""The start-up guard: says which package shadows ours, before anything of the wrong one is imported.

`core`, `solvers` and `methods` are names anyone may use, and `python -m` puts the current folder first on the path.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("core", "solvers", "methods")


class ForeignPackage(ImportError):
    """Another package has the name of one of ours and comes first on the path; the message names its folder."""


def check_imports() -> None:
    """Our packages are the ones an import would find. Nothing is imported. Raises ForeignPackage."""
    ours = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        found = _location(name)
        if found is None:
            raise ForeignPackage(f"bitrelax's package '{name}' cannot be found; it belongs in {ours}. Install it again")
        if found.parent != ours:
            raise ForeignPackage(
                f"another package named '{name}' at {found} is in the way of bitrelax's at {ours / name}; "
                "run from another folder or use python -P"
            )


def _location(name: str) -> Path | None:
    spec = find_spec(name)  # of a top-level name: looks, does not import
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:  # a package, or a folder without __init__.py, which shadows too
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return None if spec.origin is None else Path(spec.origin).resolve()
