"""The nouns and verbs every method is written in: what third parties import, under one version.

law x reading x geometry x solver: what a weight is, how one pass reads it, where its parameter lives, how it moves.
STE = Point x Draw(straight-through) x Box x Adam; BayesBiNN = Bernoulli x Draw(relaxed sign) x BernoulliFisher x SGD;
BLRNet = Bernoulli x Moments x Euclidean x Adam; low-rank SDP = LowRank x Draw(straight-through) x UnitRows x SGD.
Besides these, the modules `docs/architecture.md` lists are public; INTERFACE_VERSION grows on a break.
"""

from core.method import (
    Budget,
    Context,
    Method,
    Predictor,
    Preparation,
    Prepared,
    TensorExpected,
    cross_entropy,
    plain_logits,
    plain_loss,
)
from core.passes import (
    BINARY,
    ActivationReading,
    Contract,
    Coordinate,
    Drawn,
    GaussianActivationReading,
    Geometry,
    NoMode,
    Phase,
    Reading,
    Rng,
    SignPair,
    Surrogate,
    Tape,
    UnsupportedReading,
    WeightLaw,
    WeightReading,
)
from core.signals import Gaussian, Signal

INTERFACE_VERSION = 2

__all__ = [
    "ActivationReading",
    "BINARY",
    "Budget",
    "Context",
    "Contract",
    "Coordinate",
    "Drawn",
    "Gaussian",
    "GaussianActivationReading",
    "Geometry",
    "INTERFACE_VERSION",
    "Method",
    "NoMode",
    "Phase",
    "Predictor",
    "Preparation",
    "Prepared",
    "Reading",
    "Rng",
    "SignPair",
    "Signal",
    "Surrogate",
    "Tape",
    "TensorExpected",
    "UnsupportedReading",
    "WeightLaw",
    "WeightReading",
    "cross_entropy",
    "plain_logits",
    "plain_loss",
]
