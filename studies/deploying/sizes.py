"""How large a packed network is: its file against the same network in float32, and what of it stayed real."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from core.deploy import PackedNetwork
from core.deploy.summary import layers


@dataclass(frozen=True)
class Size:
    """binary, real: weights of linear maps as stored, over all networks. file, float32: bytes.

    float32: weights and one bias a channel, batch norm folded, of as many networks.
    """

    networks: int
    binary: int
    real: int
    file: int
    float32: int

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.float32 / self.file

    @property
    def kept_real(self) -> float:
        """The share of weights that are not bits."""
        return self.real / (self.binary + self.real)

    def data(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "ratio": self.ratio, "kept_real": self.kept_real}


def size(network: PackedNetwork, numbers: int) -> Size:
    """Of a packed network whose float32 twin has `numbers` numbers in each of its networks."""
    form = network.form
    maps = [layer for graph in form.networks for layer in layers(graph)]
    return Size(
        networks=len(form.networks),
        binary=sum(layer.weights for layer in maps if layer.packed),
        real=sum(layer.weights for layer in maps if not layer.packed),
        file=network.size,
        float32=4 * numbers * len(form.networks),
    )
