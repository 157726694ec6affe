"""The files of a known set: where they lie below the data folder, and whether they are the expected ones."""

from __future__ import annotations

from pathlib import Path

from core.problems import idx
from core.problems.interface import Description, FileSpec, ProblemUnavailable


def locate(description: Description, root: Path | None) -> list[Path]:
    """Where each of the problem's files lies below `root`. Raises ProblemUnavailable naming all that are absent."""
    found = [_find(spec, root) if root else None for spec in description.files]
    absent = [spec for spec, path in zip(description.files, found, strict=True) if path is None]
    if absent:
        raise ProblemUnavailable(_absent_message(description, absent, root))
    return [path for path in found if path is not None]


def check(name: str, path: Path, spec: FileSpec, found: str, *, otherwise: str = "") -> None:
    """Raises ProblemUnavailable where the content's SHA-256, `found`, is not the expected one.

    otherwise: how the file could be used as it is.
    """
    if found != spec.sha256:
        of = " (uncompressed content)" if spec.gzipped else ""
        raise ProblemUnavailable(
            f"{name}: {path} has SHA-256 {found[:12]}, expected {spec.sha256[:12]}{of}\n"
            f"It is damaged or another data set. Put the original file there{otherwise}"
        )


def _find(spec: FileSpec, root: Path) -> Path | None:
    path = root / spec.path
    if spec.gzipped:
        return idx.find(path)
    return path if path.is_file() else None


def _absent_message(description: Description, absent: list[FileSpec], root: Path | None) -> str:
    folder = Path(description.files[0].path).parent
    where = f"under {root / folder}" if root else "since no data folder is given"
    lines = [
        f"{description.name}: {len(absent)} of {len(description.files)} files not found {where}",
        *(f"  {spec.path}  {spec.size:,} bytes  SHA-256 {spec.sha256[:12]}" for spec in absent),
    ]
    if any(spec.gzipped for spec in absent):
        lines.append("Each may be plain or end in .gz; sizes and checksums are of the uncompressed content.")
    lines.append(f"Say where the folder above {folder.parts[0]}/ is with --data-dir DIR or BITRELAX_DATA=DIR.")
    return "\n".join(lines)
