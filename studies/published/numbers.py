"""Published test accuracies of methods that have a counterpart here, each with its recipe, its source and a tag.

The tag says how the number was come by (TAGS). Numbers that were only recalled are not in this file. PBNet's
rows with a softmax output, the weaker ones, are left out: ours have the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TAGS: Mapping[str, str] = {
    "C": "read in the authors' released code or its README",
    "L": "recomputed from the authors' released training logs",
    "P": "read in the text of the paper or of a refereed reproduction",
    "S": "from a third party's summary of the paper",
}
SOURCES: Mapping[str, str] = {
    "BayesBiNN": "Meng, Bachmann & Khan, ICML 2020, arXiv 2002.10778; sd: the population's, over 5 runs",
    "BayesBiNN logs": "training logs released with team-approx-bayes/BayesBiNN; sd as above",
    "reproduction": "Garg, Singhal & Sardana, ReScience C (ML Reproducibility Challenge 2020), zenodo 4833681",
    "PBNet": "Peters & Welling, arXiv 1809.03368; numbers of the extended ICLR 2019 submission (PBNet)",
    "LR-net setting": "the BayesBiNN paper's comparison with LR-net (Shayer, Levi & Fetaya, ICLR 2018), as the "
    "reproduction by Garg, Singhal & Sardana quotes it",
    "VISPA": "NeurIPS 2024, README of snownus/bnn_vi; its epoch is the best one on the test set, by its code",
    "Bop": "README and code of plumerai/rethinking-bnn-optimization",
    "BNN": "Hubara et al. 2016 (Binarized Neural Networks), as its own paper has it",
}

Selection = Literal["best validation", "last", "best test"]


@dataclass(frozen=True, kw_only=True)
class Number:
    """One published accuracy, percent. method: our counterpart's name; label: what the paper calls the row.

    rule, networks: how it predicts, as our rules are called ("ensemble", 16). epoch: how its epoch was chosen, None
    where not said. sd: over `runs`. hyperparameters: those that were published, by our factory's keywords.
    """

    recipe: str
    method: str
    label: str
    accuracy: float
    source: str
    tag: str
    rule: str = "mode"
    networks: int = 1
    epoch: Selection | None = None
    sd: float | None = None
    runs: int | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


def _bayesbinn(recipe: str, accuracy: float, sd: float, lr: float, *, logs: bool = False) -> Number:
    """A row of BayesBiNN's tables, or the last epoch of its logs."""
    return Number(
        recipe=recipe,
        method="bayesbinn-published",
        label="BayesBiNN, last epoch" if logs else "BayesBiNN",
        accuracy=accuracy,
        sd=sd,
        runs=5,
        source="BayesBiNN logs" if logs else "BayesBiNN",
        tag="L" if logs else "P",
        epoch="last" if logs else "best validation",
        hyperparameters={"lr": lr, "temperature": 1e-10, "natural0": 10.0, "momentum": 0.0},
    )


def _again(recipe: str, method: str, label: str, accuracy: float, sd: float, **lr: float) -> Number:
    """A row of the reproduction report."""
    return Number(
        recipe=recipe,
        method=method,
        label=label,
        accuracy=accuracy,
        sd=sd,
        source="reproduction",
        tag="P",
        hyperparameters=lr,
    )


def _pbnet(
    recipe: str,
    method: str,
    label: str,
    accuracy: float,
    rule: str = "mode",
    networks: int = 1,
    sd: float | None = None,
) -> Number:
    """A row of PBNet's table, with the binary cross-entropy output."""
    return Number(
        recipe=recipe,
        method=method,
        label=label,
        accuracy=accuracy,
        sd=sd,
        source="PBNet",
        tag="P",
        rule=rule,
        networks=networks,
        epoch="best validation",
        hyperparameters={"output": "bce"},
    )


def _vispa(recipe: str, accuracy: float, sd: float, rank: int, lr: float, weight_decay: float) -> Number:
    """A row of VISPA's README: the average of 40 drawn networks."""
    return Number(
        recipe=recipe,
        method="lowrank-sdp-published",
        label="VISPA",
        accuracy=accuracy,
        sd=sd,
        runs=5,
        source="VISPA",
        tag="C",
        rule="ensemble",
        networks=40,
        epoch="best test",
        hyperparameters={"rank": rank, "lr": lr, "weight_decay": weight_decay, "precision": 100.0},
    )


NUMBERS: tuple[Number, ...] = (
    _bayesbinn("mnist-mlp", 98.86, 0.05, 1e-4),
    _bayesbinn("mnist-mlp", 98.884, 0.042, 1e-4, logs=True),
    _again("mnist-mlp-again", "bayesbinn-published", "BayesBiNN, reproduced", 98.87, 0.06),
    _again("mnist-mlp-again-ste", "ste", "STE-Adam, reproduced", 98.89, 0.05, lr=1e-2),
    _again("mnist-mlp-again", "full-precision", "full precision, reproduced", 99.02, 0.01, lr=1e-5),
    _bayesbinn("cifar10-vgg", 93.72, 0.16, 3e-4),
    _bayesbinn("cifar10-vgg", 93.752, 0.219, 3e-4, logs=True),
    _again("cifar10-vgg-again", "bayesbinn-published", "BayesBiNN, reproduced", 93.54, 0.26),
    _again("cifar10-vgg-again-ste", "ste", "STE-Adam, reproduced", 93.54, 0.08, lr=1e-2),
    _again("cifar10-vgg-again", "full-precision", "full precision, reproduced", 94.38, 0.16, lr=1e-4),
    Number(
        recipe="mnist-lrnet",
        method="bayesbinn-published",
        label="BayesBiNN on LR-net's network",
        accuracy=99.50,
        source="LR-net setting",
        tag="P",
        epoch="last",
    ),
    Number(
        recipe="mnist-lrnet",
        method="blrnet",
        label="LR-net",
        accuracy=99.47,
        source="LR-net setting",
        tag="P",
        epoch="last",
    ),
    _pbnet("mnist-lenet", "blrnet", "PBNet-S-MAP", 99.22),
    _pbnet("mnist-lenet", "blrnet", "PBNet-S-Ternary", 99.26, rule="ternary"),
    _pbnet("mnist-lenet", "blrnet", "PBNet-S-2", 99.25, "ensemble", 2, 0.047),
    _pbnet("mnist-lenet", "blrnet", "PBNet-S-5", 99.29, "ensemble", 5, 0.036),
    _pbnet("mnist-lenet", "blrnet", "PBNet-S-16", 99.30, "ensemble", 16, 0.025),
    _pbnet("mnist-lenet", "blrnet", "PBNet-S, not binarised", 99.26, rule="propagate"),
    _pbnet("mnist-lenet", "blrnet-propagate", "PBNet-MAP", 99.13),
    _pbnet("mnist-lenet", "blrnet-propagate", "PBNet, not binarised", 99.35, rule="propagate"),
    Number(recipe="mnist-bnn", method="ste", label="Binarized NN", accuracy=99.17, source="PBNet", tag="P"),
    Number(recipe="mnist-fpnet", method="full-precision", label="FPNet", accuracy=99.48, source="PBNet", tag="P"),
    _pbnet("cifar10-pbnet", "blrnet", "PBNet-S-MAP", 89.10),
    _pbnet("cifar10-pbnet", "blrnet", "PBNet-S-Ternary", 89.70, rule="ternary"),
    _pbnet("cifar10-pbnet", "blrnet", "PBNet-S-2", 89.75, "ensemble", 2, 0.205),
    _pbnet("cifar10-pbnet", "blrnet", "PBNet-S-5", 90.75, "ensemble", 5, 0.202),
    _pbnet("cifar10-pbnet", "blrnet", "PBNet-S-16", 91.28, "ensemble", 16, 0.112),
    _pbnet("cifar10-pbnet", "blrnet", "PBNet-S, not binarised", 89.58, rule="propagate"),
    _pbnet("cifar10-pbnet", "blrnet-propagate", "PBNet-MAP", 79.98),
    _pbnet("cifar10-pbnet", "blrnet-propagate", "PBNet, not binarised", 88.24, rule="propagate"),
    Number(recipe="cifar10-pbnet", method="ste", label="Binarized NN", accuracy=88.17, source="PBNet", tag="P"),
    Number(recipe="cifar10-fpnet", method="full-precision", label="FPNet", accuracy=92.45, source="PBNet", tag="P"),
    _vispa("cifar10-vispa-vgg", 92.7, 0.1, 4, 0.5, 1e-5),
    _vispa("cifar10-vispa-resnet18", 92.8, 0.2, 4, 0.5, 1e-5),
    _vispa("cifar10-vispa-resnet18-real", 95.05, 0.10, 8, 0.1, 5e-4),
    Number(recipe="cifar10-bop", method="bop", label="Bop", accuracy=91.3, source="Bop", tag="C"),
    Number(recipe="cifar10-bnn", method="ste", label="BNN", accuracy=89.85, source="BNN", tag="P"),
)
