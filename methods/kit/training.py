"""Checks of training: the loss falls, runs repeat and continue, parameters are claimed, noise is passed in, devices."""

from __future__ import annotations

import io
import unittest
from typing import Any

import torch

from core.claims import ClaimError, laws
from core.fit import Epoch, Run, fit
from core.interface import cross_entropy
from methods.kit.audit import NonConformant, require
from methods.kit.trials import advanced, differences, isolated, scores, start, steps_left

FALL = 0.9  # the last epoch's loss over the first's


@isolated
def loss_falls(name: str, **hyperparameters: Any) -> None:
    """The mean training loss of the last of 30 epochs is at most 0.9 of the first's, with relu and with signs.

    Of a method that finishes in `prepare`: the loss of its mode after that is at most 0.9 of that at the start.
    """
    for activation in ("relu", "sign"):
        _require_fall(name, hyperparameters, activation)


def _require_fall(name: str, hyperparameters: dict[str, Any], activation: str) -> None:
    epochs: list[Epoch] = []
    run = start(name, hyperparameters, activation=activation)
    if run.done == run.budget.steps:
        _require_prepared_fall(run, start(name, hyperparameters, activation=activation, prepares=False), activation)
        return
    ended = fit(run, watch=epochs.append)
    require(ended.diverged is None, str(ended.diverged), "lower the learning rate, or guard what overflows")
    first, last = epochs[0].train_loss, epochs[-1].train_loss
    require(
        last <= FALL * first,
        f"mean training loss {first:.3g} in epoch 1, {last:.3g} in epoch {len(epochs)}, {activation} activations",
        "does a solver move every law, downhill? are the defaults too cautious for 180 steps?",
    )


def _require_prepared_fall(run: Run, fresh: Run, activation: str) -> None:
    first, last = (cross_entropy(scores(r, r.method.predictors[0])[0], r.labels).item() for r in (fresh, run))
    require(
        last <= FALL * first,
        f"loss of the mode {first:.3g} at the start, {last:.3g} after prepare, {activation} activations",
        "does prepare spend the whole budget and leave the laws as they were?",
    )


@isolated
def same_seed_same_weights(name: str, **hyperparameters: Any) -> None:
    """Two runs from one seed agree bit for bit; a run from another seed does not."""
    first, again, other = (_weights(advanced(start(name, hyperparameters, seed=s))) for s in (0, 0, 1))
    different = differences(first, again)
    require(not different, f"two runs from one seed differ in {different}", "keep no state between two `make`s")
    require(bool(differences(first, other)), "two seeds give the same weights", "initialise laws from their rng")


@isolated
def state_round_trip(name: str, **hyperparameters: Any) -> None:
    """A run saved after some steps and loaded into a fresh one continues bit for bit."""
    run, fresh = advanced(start(name, hyperparameters)), start(name, hyperparameters)
    fresh.load_state_dict(_through_file(run.state_dict()))
    losses = [(run.step().item(), fresh.step().item()) for _ in range(steps_left(run))]
    hint = "keep all state in parameters, registered buffers or solver.state, none in closures or plain attributes"
    late = next((i for i, (a, b) in enumerate(losses, 1) if a != b), None)
    require(late is None, f"the loaded run's loss differs in step {late} after the save", hint)
    different = differences(run.state_dict(), fresh.state_dict())
    require(not different, f"some steps after the save the loaded run differs in {different}", hint)


@isolated
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


@isolated
def noise_is_passed_in(name: str, **hyperparameters: Any) -> None:
    """Seeding the global generators of torch, NumPy and Python changes nothing; torch's is not even moved."""
    ends = []
    for seed in (1, 2):
        run = start(name, hyperparameters, global_seed=seed)
        before = torch.get_rng_state()
        advanced(run)
        predicted = {rule.name: scores(run, rule) for rule in run.method.predictors}
        unmoved = torch.equal(torch.get_rng_state(), before)
        require(unmoved, "training or prediction moved torch's global generator", "draw from the passed rng")
        ends.append({"model": run.model.state_dict(), "scores": predicted})
    different = differences(*ends)
    require(
        not different, f"seeding the global generators changes {different}", "initialise and draw from the passed rng"
    )


@isolated
def both_precisions_work(name: str, **hyperparameters: Any) -> None:
    """Training and every prediction rule stay finite and in float32, and in float64 after `model.double()`."""
    hint = "take dtype and device from the parameters; guard what overflows"
    for dtype in (torch.float32, torch.float64):
        try:
            run = advanced(start(name, hyperparameters, dtype=dtype))
            results = [s for rule in run.method.predictors for s in scores(run, rule)]
        except (RuntimeError, TypeError) as error:
            raise NonConformant(f"in {dtype}: {error}. Hint: {hint}") from error
        floats = [t for t in (*run.model.state_dict().values(), *results) if t.is_floating_point()]
        for t in floats:
            require(t.dtype == dtype, f"in {dtype} a weight or score is {t.dtype}", hint)
            require(bool(t.isfinite().all()), f"in {dtype} a weight or score is not finite", hint)


@isolated
def runs_on_cuda(name: str, **hyperparameters: Any) -> None:
    """Training and every prediction rule run on a CUDA device; skipped where torch sees none."""
    if not torch.cuda.is_available():
        raise unittest.SkipTest("torch sees no CUDA device")
    run = advanced(start(name, hyperparameters, device="cuda"))
    for rule in run.method.predictors:
        for result in scores(run, rule):
            require(result.is_cuda, f"rule {rule.name!r} left the device", "make tensors on the parameters' device")


def _weights(run: Run) -> dict[str, Any]:
    return {name: law.state_dict() for name, law in laws(run.model)}


def _through_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
