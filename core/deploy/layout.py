"""A form as plain JSON data and a list of arrays, and back; the parameters of an operation are its dataclass fields.

    {"arrays": [{"dtype": "uint32", "offset": 0, "shape": [16, 1, 1, 25]}, ...],
     "facts": {...},
     "networks": [{"input": {"kind": "u8", "raw_shape": [784], "shape": [1, 1, 784]},
                   "nodes": [{"inputs": ["input"], "name": "...", "operation": "IntLinear",
                              "parameters": {"weights": 0}}, ...],
                   "output": "..."}]}

A parameter that is an array is its place in the list of arrays. Nothing may be missing, unknown or of another type.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np

from core.deploy.form import Form, FormError, Graph, Input, Node, Operation, Value
from core.deploy.operations import OPERATIONS
from core.deploy.plain import FileError, record, typed, whole_numbers

MOST_USES = 256  # of all bytes of arrays, in the mean: an ensemble of equal networks holds them once
FREE_BYTES = 1 << 26  # of uses, however small the arrays


def to_data(form: Form, place: Callable[[np.ndarray], int]) -> dict[str, Any]:
    """The facts and networks of `form` as JSON data; `place` takes each array and answers with its number."""
    return {"facts": dict(form.facts), "networks": [_graph_data(graph, place) for graph in form.networks]}


def _graph_data(graph: Graph, place: Callable[[np.ndarray], int]) -> dict[str, Any]:
    given = graph.input
    return {
        "input": {"kind": given.value.kind, "raw_shape": list(given.raw_shape), "shape": list(given.value.shape)},
        "nodes": [
            {
                "inputs": list(node.inputs),
                "name": node.name,
                "operation": _known(node.operation),
                "parameters": _parameter_data(node.operation, place),
            }
            for node in graph.nodes
        ],
        "output": graph.output,
    }


def _known(operation: Operation) -> str:
    name = type(operation).__name__
    if OPERATIONS.get(name) is not type(operation):
        raise FileError(f"{name} is no operation of a packed network, which are {', '.join(OPERATIONS)}")
    return name


def _parameter_data(operation: Operation, place: Callable[[np.ndarray], int]) -> dict[str, Any]:
    kinds = _parameters(type(operation))
    held = {name: getattr(operation, name) for name in kinds}
    return {name: place(value) if kinds[name] is np.ndarray else value for name, value in held.items()}


@cache
def _parameters(operation: type[Operation]) -> Mapping[str, type]:
    """The fields of an operation and what each holds: np.ndarray, int or str."""
    hints = typing.get_type_hints(operation)
    names = [field.name for field in fields(operation)]  # type: ignore[arg-type]  # every operation is a dataclass
    return {name: str if typing.get_origin(hints[name]) is typing.Literal else hints[name] for name in names}


def from_data(data: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> Form:
    """The form that `data` (with "facts" and "networks") and `arrays` describe.

    Raises FileError for anything that `to_data` would not write, and for arrays that nothing uses.
    """
    shared = _Arrays(arrays)
    networks = [_graph(item, f"network {k}", shared) for k, item in enumerate(typed(data, "networks", list))]
    if unused := set(range(len(arrays))) - shared.used:
        raise FileError(f"array {min(unused)} is used by no operation")
    try:
        return Form(tuple(networks), typed(data, "facts", dict))
    except FormError as error:
        raise FileError(str(error)) from None


def check_uses(used: int, held: int, where: str) -> None:
    """Raises FileError where operations use so many bytes of arrays, each use counted, that a file holds once.

    Every use is checked and laid out anew: without a bound a small file could keep its reader busy for hours.
    """
    if used > MOST_USES * held + FREE_BYTES:
        raise FileError(f"{where}: arrays are used over and over, to {used} bytes in all; give layers their own")


class _Arrays:
    """The arrays of a file, which ones operations use, and how many bytes that is, each use counted."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays, self.used = arrays, set[int]()
        self.held, self.bytes = sum(array.nbytes for array in arrays), 0

    def take(self, k: int, where: str) -> np.ndarray:
        """Array `k`. Raises FileError where there is none, or where the uses come to too much."""
        if not 0 <= k < len(self.arrays):
            raise FileError(f"{where} is array {k}, but the file has {len(self.arrays)}")
        self.used.add(k)
        self.bytes += self.arrays[k].nbytes
        check_uses(self.bytes, self.held, where)
        return self.arrays[k]


def _graph(data: object, where: str, arrays: _Arrays) -> Graph:
    data = record(data, where, "input", "nodes", "output")
    nodes = typed(data, "nodes", list, where)
    try:
        return Graph(
            _input(data["input"], f"{where}: input"),
            tuple(_node(node, f"{where}: node {k}", arrays) for k, node in enumerate(nodes)),
            typed(data, "output", str, where),
        )
    except FormError as error:
        raise FileError(f"{where}: {error}") from None


def _input(data: object, where: str) -> Input:
    data = record(data, where, "kind", "raw_shape", "shape")
    shape = whole_numbers(data, "shape", where)
    return Input(
        tuple(whole_numbers(data, "raw_shape", where)),
        Value(typed(data, "kind", str, where), tuple(shape)),  # type: ignore[arg-type]  # Value checks both
    )


def _node(data: object, where: str, arrays: _Arrays) -> Node:
    data = record(data, where, "inputs", "name", "operation", "parameters")
    name = typed(data, "name", str, where)
    where = f"{where} {name!r}"
    kind = OPERATIONS.get(typed(data, "operation", str, where))
    if kind is None:
        raise FileError(
            f"{where}: operation {data['operation']!r} is unknown; this release has {', '.join(OPERATIONS)}"
        )
    inputs = typed(data, "inputs", list, where)
    if any(type(given) is not str for given in inputs):
        raise FileError(f"{where}: inputs must be names (got {inputs})")
    return Node(name, _operation(kind, data["parameters"], f"{where}: {kind.__name__}", arrays), tuple(inputs))


def _operation(kind: type[Operation], data: object, where: str, arrays: _Arrays) -> Operation:
    kinds = _parameters(kind)
    data = record(data, where, *kinds)
    held: dict[str, Any] = {}
    for name, holds in kinds.items():
        held[name] = typed(data, name, int if holds is np.ndarray else holds, where)
        if holds is np.ndarray:
            held[name] = arrays.take(held[name], f"{where}: {name}")
    return kind(**held)
