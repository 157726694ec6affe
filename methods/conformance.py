"""The kit every method passes, ours and a third party's: `check("mine")`, or one test a law under pytest:

    @pytest.mark.parametrize("law", CHECKS)
    def test_mine(law):
        law("mine")

Keyword arguments are the method's hyperparameters. Each law trains networks of some hundred weights for a moment.
"""

from __future__ import annotations

import functools
import io
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from core.claims import ClaimError, laws
from core.fit import Epoch, Run, fit
from core.layers import Activation
from methods.audit import NonConformant, check_law, check_one_network, check_width, require
from methods.trials import differences, global_generators_restored, read, scores, start

Check = Callable[..., None]
FEW = 8  # steps of a run that need not learn: into the second epoch, so that the data order is part of what is compared
FALL = 0.9  # the last epoch's loss over the first's
DRAWS = 400  # of the Monte-Carlo mean of a law


@dataclass(frozen=True)
class Finding:
    """What one check said of a method."""

    check: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""


def check(name: str, **hyperparameters: Any) -> list[Finding]:
    """Run every check on the method `name`. Raises NonConformant listing all that fail, each with reason and hint."""
    findings = [_find(law, name, hyperparameters) for law in CHECKS]
    failed = [f for f in findings if f.status == "failed"]
    if failed:
        listed = "\n".join(f"- {f.check}: {f.reason}" for f in failed)
        raise NonConformant(f"method {name!r} fails {len(failed)} of {len(findings)} checks:\n{listed}")
    return findings


def _isolated(law: Check) -> Check:
    """The law, with the global generators put back afterwards."""

    @functools.wraps(law)
    def run(name: str, **hyperparameters: Any) -> None:
        with global_generators_restored():
            law(name, **hyperparameters)

    return run


@_isolated
def loss_falls(name: str, **hyperparameters: Any) -> None:
    """The mean training loss of the last of 30 epochs is at most 0.9 of the first's."""
    epochs: list[Epoch] = []
    ended = fit(start(name, hyperparameters), watch=epochs.append)
    require(ended.diverged is None, str(ended.diverged), "lower the learning rate, or guard what overflows")
    first, last = epochs[0].train_loss, epochs[-1].train_loss
    require(
        last <= FALL * first,
        f"mean training loss {first:.3g} in epoch 1, {last:.3g} in epoch {len(epochs)}",
        "does a solver move every law, downhill? are the defaults too cautious for 180 steps?",
    )


@_isolated
def same_seed_same_weights(name: str, **hyperparameters: Any) -> None:
    """Two runs from one seed agree bit for bit; a run from another seed does not."""
    first, again, other = (_weights(_advanced(start(name, hyperparameters, seed=s))) for s in (0, 0, 1))
    different = differences(first, again)
    require(not different, f"two runs from one seed differ in {different}", "keep no state between two `make`s")
    require(bool(differences(first, other)), "two seeds give the same weights", "initialise laws from their rng")


@_isolated
def state_round_trip(name: str, **hyperparameters: Any) -> None:
    """A run saved after some steps and loaded into a fresh one continues bit for bit."""
    run, fresh = _advanced(start(name, hyperparameters)), start(name, hyperparameters)
    fresh.load_state_dict(_through_file(run.state_dict()))
    losses = [(run.step().item(), fresh.step().item()) for _ in range(FEW)]
    hint = "keep all state in parameters, registered buffers or solver.state, none in closures or plain attributes"
    late = next((i for i, (a, b) in enumerate(losses, 1) if a != b), None)
    require(late is None, f"the loaded run's loss differs in step {late} after the save", hint)
    different = differences(run.state_dict(), fresh.state_dict())
    require(not different, f"some steps after the save the loaded run differs in {different}", hint)


@_isolated
def every_parameter_claimed_once(name: str, **hyperparameters: Any) -> None:
    """Solvers claim every parameter exactly once, in an all-binary network and in one with real parts.

    A method with its own `step` and no solver is asked for the all-binary network only.
    """
    for real_parts, kind in ((False, "binary layers only"), (True, "a real last layer and affine batch norm")):
        try:
            run = start(name, hyperparameters, real_parts=real_parts)  # a Run checks the claims
        except ClaimError as error:
            hint = "binary_coordinates(model) and real_parameters(model) together are all parameters"
            raise NonConformant(f"in a network with {kind}, {error}. Hint: {hint}") from error
        if run.method.step is not None and not run.solvers:
            return


@_isolated
def weight_bits_are_true(name: str, **hyperparameters: Any) -> None:
    """Every prediction rule uses weights of the width it declares; 32 bits are declared for real laws only."""
    run = _advanced(start(name, hyperparameters))
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


@_isolated
def activation_bits_are_true(name: str, **hyperparameters: Any) -> None:
    """In a network with sign activations, every prediction rule's activations are -1 or +1."""
    run = _advanced(start(name, hyperparameters, activation="sign"))
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


@_isolated
def mode_comes_first(name: str, **hyperparameters: Any) -> None:
    """The first prediction rule is "mode": one network of every law's mode. No two rules share a name."""
    run = _advanced(start(name, hyperparameters))
    named = [rule.name for rule in run.method.predictors]
    hint = "predictors=[mode(activations), ...] from core.predict; results are kept by rule name"
    require(named[:1] == ["mode"], f"the first of the rules {named} is not 'mode'", hint)
    require(len(set(named)) == len(named), f"two of the rules {named} share a name", hint)
    rule = run.method.predictors[0]
    require(rule.networks == 1, f"rule 'mode' declares {rule.networks} networks", hint)
    for law, used in (of_law for network in read(run, rule) for of_law in network):
        require(all(torch.equal(w, law.mode()) for w in used), "rule 'mode' uses other weights than mode()", hint)


@_isolated
def networks_are_counted(name: str, **hyperparameters: Any) -> None:
    """A rule averages as many networks as it declares, and each keeps its weights from pass to pass."""
    run = _advanced(start(name, hyperparameters))
    for rule in run.method.predictors:
        networks = read(run, rule)
        counts = f"rule {rule.name!r} declares {rule.networks} networks and averages {len(networks)}"
        require(len(networks) == rule.networks, counts, "yield one reading per network")
        for network in networks:
            check_one_network(rule, network)


@_isolated
def noise_is_passed_in(name: str, **hyperparameters: Any) -> None:
    """Seeding the global generators of torch, NumPy and Python changes nothing; torch's is not even moved."""
    ends = []
    for seed in (1, 2):
        run = start(name, hyperparameters, global_seed=seed)
        before = torch.get_rng_state()
        _advanced(run)
        predicted = {rule.name: scores(run, rule) for rule in run.method.predictors}
        unmoved = torch.equal(torch.get_rng_state(), before)
        require(unmoved, "training or prediction moved torch's global generator", "draw from the passed rng")
        ends.append({"model": run.model.state_dict(), "scores": predicted})
    different = differences(*ends)
    require(
        not different, f"seeding the global generators changes {different}", "initialise and draw from the passed rng"
    )


@_isolated
def both_precisions_work(name: str, **hyperparameters: Any) -> None:
    """Training and every prediction rule stay finite and in float32, and in float64 after `model.double()`."""
    hint = "take dtype and device from the parameters; guard what overflows"
    for dtype in (torch.float32, torch.float64):
        try:
            run = _advanced(start(name, hyperparameters, dtype=dtype))
            results = [s for rule in run.method.predictors for s in scores(run, rule)]
        except (RuntimeError, TypeError) as error:
            raise NonConformant(f"in {dtype}: {error}. Hint: {hint}") from error
        floats = [t for t in (*run.model.state_dict().values(), *results) if t.is_floating_point()]
        for t in floats:
            require(t.dtype == dtype, f"in {dtype} a weight or score is {t.dtype}", hint)
            require(bool(t.isfinite().all()), f"in {dtype} a weight or score is not finite", hint)


@_isolated
def laws_state_facts(name: str, **hyperparameters: Any) -> None:
    """mean() is the mean of draws and within the levels; draws and mode() are levels; all have the law's shape."""
    run = _advanced(start(name, hyperparameters))
    with torch.no_grad():
        for law_name, law in laws(run.model.double()):
            check_law(law_name, law, torch.stack([law.values(law.latent(law.noise(run.noise))) for _ in range(DRAWS)]))


@_isolated
def runs_on_cuda(name: str, **hyperparameters: Any) -> None:
    """Training and every prediction rule run on a CUDA device; skipped where torch sees none."""
    if not torch.cuda.is_available():
        raise unittest.SkipTest("torch sees no CUDA device")
    run = _advanced(start(name, hyperparameters, device="cuda"))
    for rule in run.method.predictors:
        for result in scores(run, rule):
            require(result.is_cuda, f"rule {rule.name!r} left the device", "make tensors on the parameters' device")


CHECKS: tuple[Check, ...] = (
    loss_falls,
    same_seed_same_weights,
    state_round_trip,
    every_parameter_claimed_once,
    weight_bits_are_true,
    activation_bits_are_true,
    mode_comes_first,
    networks_are_counted,
    noise_is_passed_in,
    both_precisions_work,
    laws_state_facts,
    runs_on_cuda,
)


def _find(law: Check, name: str, hyperparameters: dict[str, Any]) -> Finding:
    label: str = law.__name__
    try:
        law(name, **hyperparameters)
    except NonConformant as error:
        return Finding(label, "failed", str(error))
    except unittest.SkipTest as skip:
        return Finding(label, "skipped", str(skip))
    except Exception as error:  # the method's own failure is a finding; the pytest form shows its traceback
        return Finding(label, "failed", f"raised {type(error).__name__}: {error}")
    return Finding(label, "passed")


def _advanced(run: Run) -> Run:
    for _ in range(FEW):
        run.step()
    return run


def _weights(run: Run) -> dict[str, Any]:
    return {name: law.state_dict() for name, law in laws(run.model)}


def _through_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
