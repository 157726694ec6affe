"""Checks of prediction: bits, the mode and its export, the networks averaged, laws against their own draws."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from core.claims import laws
from core.fit import Run
from core.interface import WeightLaw
from core.layers import Activation
from core.readings import Fixed
from methods.kit.audit import check_law, check_one_network, check_spread, check_width, require
from methods.kit.trials import advanced, forward_passes, isolated, read, scores, start

DRAWS = 400  # of the Monte-Carlo moments of a law


@isolated
def weight_bits_are_true(name: str, **hyperparameters: Any) -> None:
    """Every prediction rule uses weights of the width it declares; 32 bits are declared for real laws only."""
    run = advanced(start(name, hyperparameters))
    bits, mode = run.method.weight_bits, run.method.predictors[0]
    hint = "weight_bits=32 goes with levels=None, and only with it"
    for law_name, law in laws(run.model):
        require((law.levels is None) == (bits == 32), f"{bits} bits declared, {law_name} has {law.levels}", hint)
    hint = "the first rule is what gets exported: its width is the method's"
    require(mode.weight_bits == bits, f"rule {mode.name!r} declares {mode.weight_bits} bits, the method {bits}", hint)
    for rule in run.method.predictors:
        for network in read(run, rule):
            for law, used in network:
                check_width(rule, law, used)


@isolated
def activation_bits_are_true(name: str, **hyperparameters: Any) -> None:
    """In a network with sign activations, every prediction rule's activations are -1 or +1."""
    run = advanced(start(name, hyperparameters, activation="sign"))
    seen: list[Tensor] = []
    for module in run.model.modules():
        if isinstance(module, Activation):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for rule in run.method.predictors:
        seen.clear()
        read(run, rule)
        if rule.activation_bits == 32:  # it says so
            continue
        off = next((v.item() for output in seen for v in output[output.abs() != 1]), None)
        require(off is None, f"rule {rule.name!r}: a sign activation gave {off}", "use SignActivation(surrogate)")


@isolated
def mode_comes_first(name: str, **hyperparameters: Any) -> None:
    """The first prediction rule is "mode": one network of every law's mode. No two rules share a name."""
    run = advanced(start(name, hyperparameters))
    named = [rule.name for rule in run.method.predictors]
    hint = "predictors=[mode(activations), ...] from core.predict; results are kept by rule name"
    require(named[:1] == ["mode"], f"the first of the rules {named} is not 'mode'", hint)
    require(len(set(named)) == len(named), f"two of the rules {named} share a name", hint)
    rule = run.method.predictors[0]
    require(rule.networks == 1, f"rule 'mode' declares {rule.networks} networks", hint)
    for law, used in (of_law for network in read(run, rule) for of_law in network):
        require(all(torch.equal(w, law.mode()) for w in used), "rule 'mode' uses other weights than mode()", hint)


@isolated
def networks_are_counted(name: str, **hyperparameters: Any) -> None:
    """A rule averages as many networks as it declares, by hook too, and each keeps its weights from pass to pass."""
    run = advanced(start(name, hyperparameters))
    for rule in run.method.predictors:
        networks = read(run, rule)
        counts = f"rule {rule.name!r} declares {rule.networks} networks and averages {len(networks)}"
        require(len(networks) == rule.networks, counts, "yield one reading per network")
        for network in networks:
            check_one_network(rule, network)
        passes = forward_passes(run, rule)
        hint = "every forward pass of a rule is one of its `networks`, estimating statistics or predicting"
        require(
            passes == 2 * rule.networks,
            f"rule {rule.name!r} ran {passes} forward passes, 2 a network are {2 * rule.networks}",
            hint,
        )


@isolated
def laws_state_facts(name: str, **hyperparameters: Any) -> None:
    """mean() is the mean of draws and within the levels; draws and mode() are levels; all have the law's shape."""
    run = advanced(start(name, hyperparameters))
    with torch.no_grad():
        for law_name, law in laws(run.model.double()):
            check_law(law_name, law, _draws(law, run))


@isolated
def draws_follow_the_law(name: str, **hyperparameters: Any) -> None:
    """Draws have the law's variance(), and its pair moments: those of independent weights, or pair_moment(i, j)."""
    run = advanced(start(name, hyperparameters))
    with torch.no_grad():
        for law_name, law in laws(run.model.double()):
            check_spread(law_name, law, _draws(law, run))


@isolated
def mode_survives_export(name: str, **hyperparameters: Any) -> None:
    """A network rebuilt from one bit a weight and the re-estimated statistics predicts what "mode" predicts."""
    run = advanced(start(name, hyperparameters, activation="sign"))
    rule = run.method.predictors[0]
    networks = read(run, rule)
    if rule.networks != 1 or len(networks) != 1:
        return  # another check's business
    weights = {law: _through_bits(law, used[0]) for law, used in networks[0]}
    (reading,) = rule.readings(run.model, run.noise)
    rebuilt = replace(rule, readings=lambda model, rng: [replace(reading, weights=Fixed(weights))])
    same = all(torch.equal(a, b) for a, b in zip(scores(run, rule), scores(run, rebuilt), strict=True))
    hint = "a rule may use nothing but its weights, the network's own real parts and its statistics"
    require(same, "a network rebuilt from the bits of the mode predicts otherwise", hint)


def _through_bits(law: WeightLaw, weights: Tensor) -> Tensor:
    """Weights of a binary law made anew from one bit each; those of a real law as they are."""
    if law.levels is None:
        return weights
    low, high = min(law.levels), max(law.levels)
    return torch.where(weights == high, high, low).to(weights.dtype)


def _draws(law: WeightLaw, run: Run) -> Tensor:
    return torch.stack([law.values(law.latent(law.noise(run.noise))) for _ in range(DRAWS)])
