"""The kit itself: our entries and an integer-only method pass, and every check fails for a method broken in its way."""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import methods
from core.claims import binary_coordinates
from core.geometry import BernoulliFisher
from core.interface import Context, Coordinate, Method, Predictor, Reading, WeightLaw
from core.laws import Bernoulli, Point, initial_uniform
from core.ops import ClippedStraightThrough, StraightThrough, half_logit, sign
from core.predict import ensemble, mean, mode
from core.readings import Draw, Fixed, SignActivation, drawn_weights, mode_weights
from core.statistics import Estimation, Statistics, Training
from methods import make
from methods.conformance import (
    CHECKS,
    Finding,
    NonConformant,
    check,
    every_parameter_claimed_once,
    loss_falls,
    noise_is_passed_in,
    runs_on_cuda,
    same_seed_same_weights,
)
from methods.kit import trials
from solvers.geometric import GeometricAdam

ACTIVATIONS = SignActivation(ClippedStraightThrough())
HARDWARE = "runs_on_cuda"


@pytest.fixture
def enter() -> Iterator[Callable[[str, Callable[..., Method]], None]]:
    """Registers methods for the length of one test."""
    entered: list[str] = []

    def register(name: str, factory: Callable[..., Method]) -> None:
        methods.register(name)(factory)
        entered.append(name)

    yield register
    for name in entered:
        del methods._FACTORIES[name]


@pytest.mark.parametrize("law", CHECKS)
@pytest.mark.parametrize("name", methods.LISTED_FIRST)
def test_entries_pass(name: str, law: Callable[..., None]) -> None:
    law(name)


# ------------------------------------------------------------------ a method without float parameters


class Counters(WeightLaw):
    """w = sign(count), one saturating int8 counter a weight. `unit` carries the dtype of the passes, nothing else."""

    def __init__(self, counts: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", counts.to(torch.int8))
        self.register_buffer("unit", torch.ones((), device=counts.device))
        self.shape = counts.shape

    def noise(self, rng: torch.Generator) -> None:
        return None

    def latent(self, noise: torch.Tensor | None) -> torch.Tensor:
        return self.counts.to(self.unit.dtype)

    def values(self, latent: torch.Tensor) -> torch.Tensor:
        return sign(latent)

    def pull_back(self, noise: torch.Tensor | None, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ()

    def mean(self) -> torch.Tensor:
        return self.mode()

    def mode(self) -> torch.Tensor:
        return sign(self.latent(None))

    def coordinates(self) -> tuple[Coordinate, ...]:
        return ()


def counters(*, bound: int = 20, pace: float = 2.0) -> Method:
    """Counters moved by stochastically rounded gradients: the largest moves by `pace` on average, saturating."""

    def law(shape: torch.Size, rng: torch.Generator) -> Counters:
        return Counters(torch.randint(-bound, bound + 1, shape, generator=rng, device=rng.device))

    def step(model: torch.nn.Module, context: Context, rng: torch.Generator) -> torch.Tensor:
        reading = Reading(Draw(StraightThrough()), ACTIVATIONS).during(Training(), context.tape)
        loss = F.cross_entropy(model(context.inputs, reading, rng), context.labels)
        loss.backward()
        for drawn in context.tape.drawn:
            gradient = drawn.weights.grad
            scaled = pace * (1 - context.progress) * gradient / gradient.abs().max()
            uniform = torch.rand(scaled.shape, generator=rng, dtype=scaled.dtype, device=scaled.device)
            moved = drawn.law.counts.int() - torch.floor(scaled + uniform).int()
            drawn.law.counts.copy_(moved.clamp(-bound, bound))
        return loss

    return Method(
        law=law,
        train=lambda progress: Reading(Draw(StraightThrough()), ACTIVATIONS),
        solvers=lambda model, budget: [],
        predictors=[mode(ACTIVATIONS)],
        step=step,
    )


def test_integer_method_without_solvers_or_float_parameters_passes(enter) -> None:
    enter("counters", counters)
    findings = check("counters")
    assert [f.check for f in findings] == [law.__name__ for law in CHECKS]
    assert {f.status for f in findings if f.check != HARDWARE} == {"passed"}


# ------------------------------------------------------------------ one broken method a way of breaking


class ShrunkMean(Bernoulli):
    def mean(self) -> torch.Tensor:
        return 0.5 * super().mean()


def sampled() -> Method:
    # its loss falls by half within the shortened run, and its draws differ from each other and from the mode
    return make("bayesbinn", lr=1e-2, temperature=0.5, natural0=1.0)


def not_moving() -> Method:
    return make("ste", lr=0.0)


def forgetful() -> Callable[[], Method]:
    makes = itertools.count()

    def one_make_starts_elsewhere() -> Method:
        start = 0.5 if next(makes) == 2 else 1.0  # the first of same_seed_same_weights, after two of loss_falls
        return make("ste", init=start)

    return one_make_starts_elsewhere


def hidden_state() -> Method:
    steps = itertools.count(1)
    return replace(make("ste"), objective=lambda loss, context: loss * next(steps))


def unclaimed() -> Method:
    return replace(make("ste"), solvers=lambda model, budget: [GeometricAdam(binary_coordinates(model), lr=1e-2)])


def real_mean_called_binary() -> Method:
    return replace(sampled(), predictors=[mode(ACTIVATIONS), replace(mean(ACTIVATIONS), weight_bits=1)])


def real_weights_called_binary() -> Method:
    return replace(make("full-precision"), predictors=[mode(ACTIVATIONS)], weight_bits=1)


def binary_weights_called_real() -> Method:
    return replace(make("ste"), predictors=[mode(ACTIVATIONS, weight_bits=32)], weight_bits=32)


def relaxed_activations() -> Method:
    return replace(make("ste"), predictors=[mode(lambda h, rng: torch.tanh(10 * h))])


def mode_last() -> Method:
    return replace(sampled(), predictors=[ensemble(3, ACTIVATIONS), mode(ACTIVATIONS)])


def draw_called_mode() -> Method:
    rule = Predictor("mode", 1, 1, lambda model, rng: [Reading(drawn_weights(model, rng), ACTIVATIONS)])
    return replace(sampled(), predictors=[rule])


def mode_of_two_networks() -> Method:
    rule = replace(
        mode(ACTIVATIONS), networks=2, readings=lambda m, rng: [Reading(mode_weights(m), ACTIVATIONS) for _ in "ab"]
    )
    return replace(make("ste"), predictors=[rule])


def rules_of_one_name() -> Method:
    return replace(make("ste"), predictors=[mode(ACTIVATIONS), mode(ACTIVATIONS)])


def more_networks_than_declared() -> Method:
    return replace(sampled(), predictors=[mode(ACTIVATIONS), replace(ensemble(5, ACTIVATIONS), networks=3)])


def redrawn_in_every_pass() -> Method:
    rule = Predictor("sample", 1, 1, lambda model, rng: [Reading(Draw(StraightThrough()), ACTIVATIONS)])
    return replace(sampled(), predictors=[mode(ACTIVATIONS), rule])


def several_networks_in_one_reading() -> Method:
    def both(law, contract, x, rng, tape):
        return (contract(x, law.mode()) + contract(x, law.mode())) / 2

    rule = Predictor("pair", 1, 1, lambda model, rng: [Reading(both, ACTIVATIONS)])
    return replace(make("ste"), predictors=[mode(ACTIVATIONS), rule])


def global_initialisation() -> Method:
    return replace(make("ste"), law=lambda shape, rng: Point(2 * torch.rand(shape, device=rng.device) - 1))


def global_noise() -> Method:
    return replace(make("ste"), objective=lambda loss, context: loss + 0 * torch.rand(()).item())


def python_initialisation() -> Method:
    return make("ste", init=0.1 + random.random())


def numpy_initialisation() -> Method:
    return make("ste", init=0.1 + np.random.rand())


def float32_only() -> Method:
    def readings(model, rng):
        return [Reading(Fixed({law: w.float() for law, w in mode_weights(model).weights.items()}), ACTIVATIONS)]

    return replace(make("ste"), predictors=[replace(mode(ACTIVATIONS), readings=readings)])


def wrong_mean() -> Method:
    def shrunk(shape: torch.Size, rng: torch.Generator) -> ShrunkMean:
        return ShrunkMean(sign(initial_uniform(shape, rng)), geometry=BernoulliFisher(6.0))

    return replace(sampled(), law=shrunk)


class SharedNoise(Bernoulli):
    """One uniform for all weights of a draw: the means hold, independence does not."""

    def noise(self, rng: torch.Generator) -> torch.Tensor:
        return half_logit(torch.rand((), generator=rng, dtype=self.natural.dtype)).expand(self.shape)


def shared_noise() -> Method:
    def law(shape: torch.Size, rng: torch.Generator) -> SharedNoise:
        return SharedNoise(sign(initial_uniform(shape, rng)), geometry=BernoulliFisher(6.0))

    return replace(sampled(), law=law)


def hidden_bias() -> Method:
    def biased(law, contract, x, rng, tape):
        return contract(x, law.mode()).abs()  # batch norm does not take it away

    rule = Predictor("mode", 1, 1, lambda model, rng: [Reading(biased, ACTIVATIONS)])
    return replace(make("ste"), predictors=[rule])


def hidden_passes() -> Method:
    def readings(model, rng):
        reading = Reading(mode_weights(model), ACTIVATIONS)
        images = torch.zeros(4, trials.FEATURES, dtype=next(model.parameters()).dtype, device=rng.device)
        model(images, reading.during(Estimation(Statistics())), rng)
        return [reading]

    return replace(make("ste"), predictors=[replace(mode(ACTIVATIONS), readings=readings)])


def constant_activations() -> Method:
    def ones(h, rng):
        return torch.ones_like(h) + 0 * h

    return replace(make("ste"), train=lambda progress: Reading(Draw(StraightThrough()), ones))


BROKEN = [
    (shared_noise, "draws_follow_the_law", "E[w_i w_i+1] is off"),
    (hidden_bias, "mode_survives_export", "predicts otherwise"),
    (hidden_passes, "networks_are_counted", "ran 3 forward passes"),
    (constant_activations, "loss_falls", "sign activations"),
    (not_moving, "loss_falls", "in epoch 10, relu activations"),
    (forgetful(), "same_seed_same_weights", "two runs from one seed differ in ['layers.0.law.latents'"),
    (hidden_state, "state_round_trip", "differs"),
    (unclaimed, "every_parameter_claimed_once", "is claimed by no solver"),
    (real_mean_called_binary, "weight_bits_are_true", "rule 'mean' declares 1 bits"),
    (real_weights_called_binary, "weight_bits_are_true", "layers.0.law has None"),
    (binary_weights_called_real, "weight_bits_are_true", "32 bits declared"),
    (relaxed_activations, "activation_bits_are_true", "rule 'mode': a sign activation gave"),
    (mode_last, "mode_comes_first", "['ensemble(3)', 'mode']"),
    (draw_called_mode, "mode_comes_first", "other weights than mode()"),
    (mode_of_two_networks, "mode_comes_first", "declares 2 networks"),
    (rules_of_one_name, "mode_comes_first", "share a name"),
    (more_networks_than_declared, "networks_are_counted", "declares 3 networks and averages 5"),
    (redrawn_in_every_pass, "networks_are_counted", "rule 'sample' changes or averages"),
    (several_networks_in_one_reading, "networks_are_counted", "rule 'pair' changes or averages"),
    (global_initialisation, "noise_is_passed_in", "seeding the global generators changes"),
    (global_noise, "noise_is_passed_in", "moved torch's global generator"),
    (python_initialisation, "noise_is_passed_in", "seeding the global generators changes"),
    (numpy_initialisation, "noise_is_passed_in", "seeding the global generators changes"),
    (float32_only, "both_precisions_work", "in torch.float64"),
    (wrong_mean, "laws_state_facts", "mean() is off the mean"),
]


@pytest.mark.parametrize(("factory", "law", "says"), BROKEN, ids=[f.__name__ for f, _, _ in BROKEN])
def test_broken_method_fails_exactly_its_check(enter, monkeypatch, factory, law, says) -> None:
    monkeypatch.setattr(trials, "STEPS", 60)  # a third of the kit's longest run, for speed
    enter("broken", factory)
    with pytest.raises(NonConformant) as caught:
        check("broken")
    message = str(caught.value)
    assert message.startswith(f"method 'broken' fails 1 of {len(CHECKS)} checks:\n- {law}: ")
    assert says in message
    assert ". Hint: " in message


def test_every_check_has_a_method_that_breaks_it() -> None:
    assert {law for _, law, _ in BROKEN} | {HARDWARE} == {law.__name__ for law in CHECKS}


def test_two_seeds_must_differ(enter) -> None:
    def constant() -> Method:
        return replace(make("ste", lr=0.0), law=lambda shape, rng: Point(torch.ones(shape, device=rng.device)))

    enter("broken", constant)
    with pytest.raises(NonConformant, match="two seeds give the same weights"):
        same_seed_same_weights("broken")


def test_parameter_claimed_twice_is_named(enter) -> None:
    twice = replace(make("ste"), solvers=lambda m, b: [GeometricAdam(binary_coordinates(m), lr=1e-2) for _ in "ab"])
    enter("broken", lambda: twice)
    with pytest.raises(NonConformant, match="'layers.0.law.latents' is claimed 2 times"):
        every_parameter_claimed_once("broken")


def test_factory_that_returns_no_method_is_told(enter) -> None:
    enter("broken", lambda: {"law": None})
    with pytest.raises(NonConformant, match="the factory returned a dict; it must return a core.interface.Method"):
        check("broken")


def test_all_failures_are_listed_at_once(enter) -> None:
    enter("broken", lambda: replace(not_moving(), predictors=rules_of_one_name().predictors))
    with pytest.raises(NonConformant, match="(?s)fails 2 of .*- loss_falls.*- mode_comes_first"):
        check("broken")


def test_hyperparameters_reach_the_method() -> None:
    with pytest.raises(NonConformant, match="in epoch 30"):
        loss_falls("ste", lr=0.0)


def test_kit_leaves_global_generators_alone() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    noise_is_passed_in("ste")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]


def test_cuda_check_is_skipped_by_name_without_a_device(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check("ste")[-1] == Finding(HARDWARE, "skipped", "torch sees no CUDA device")


@pytest.mark.gpu
def test_law_left_on_the_cpu_fails_the_cuda_check(enter) -> None:
    enter("broken", lambda: replace(make("ste"), predictors=[replace(mode(ACTIVATIONS), readings=_on_cpu)]))
    with pytest.raises((NonConformant, RuntimeError), match="device"):
        runs_on_cuda("broken")


def _on_cpu(model, rng):
    return [Reading(Fixed({law: w.cpu() for law, w in mode_weights(model).weights.items()}), ACTIVATIONS)]
