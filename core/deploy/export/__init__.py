"""From a trained torch network to a packed one. The only part of `core.deploy` that imports torch."""

from core.deploy.export.exporter import export, kept_in_float
from core.deploy.export.refusals import ExportError

__all__ = ["ExportError", "export", "kept_in_float"]
