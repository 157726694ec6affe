"""Data sets: built-in problems by name, and a user's own data without code. States data and loss, never a method."""

from core.problems.catalogue import checksums, describe, load, locate, names
from core.problems.evaluator import TestLabelsRead, TestSet
from core.problems.interface import Description, FileSpec, Problem, ProblemUnavailable, Split, UnknownProblem

__all__ = [
    "Description",
    "FileSpec",
    "Problem",
    "ProblemUnavailable",
    "Split",
    "TestLabelsRead",
    "TestSet",
    "UnknownProblem",
    "checksums",
    "describe",
    "load",
    "locate",
    "names",
]
