"""Packed networks beside their peers and this machine's limit: `python -m studies.deploy --bench`."""

from studies.deploying.bench.command import run

__all__ = ["run"]
