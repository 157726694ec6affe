"""The one loop: its schedule, its batches, its budget, its clock, its end, and that it can be cut anywhere."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Optimizer

import core.fit
from core.architectures import InputForm, build
from core.claims import ClaimError, check_claims, laws
from core.fit import CHECK_EVERY, SCHEDULES, Diverged, Epoch, Fitted, Run, fit
from core.interface import Budget, Context, Method, Prepared, Reading, WeightLaw
from core.laws import Bernoulli, Point, initial_uniform
from core.layers import BatchNorm, BinaryLinear, Network
from core.ops import RelaxedSign, StraightThrough, sign
from core.predict import mode
from core.readings import Draw, SignActivation
from core.seeds import generator
from methods.bayesbinn import bayesbinn
from methods.bayesbinn_published import bayesbinn_published
from methods.bop import bop
from methods.full_precision import full_precision
from methods.ste import ste

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
SIGNS = SignActivation(StraightThrough())
METHODS = {
    "ste": ste,
    "bop": bop,
    "bayesbinn": lambda: bayesbinn(draws=2),
    "bayesbinn-published": bayesbinn_published,
    "full-precision": full_precision,
}
N, FEATURES, CLASSES = 23, 6, 3
INPUTS = torch.randn((N, FEATURES), generator=generator("fit", "inputs"))
LABELS = torch.randint(0, CLASSES, (N,), generator=generator("fit", "labels"))


class Recorder(Optimizer):
    """Moves nothing; keeps the learning rates and the gradients that it was given at every step."""

    def __init__(self, groups, *, lr: float = 0.5) -> None:
        super().__init__(groups, {"lr": lr})
        self.rates: list[list[float]] = []
        self.gradients: list[list[torch.Tensor]] = []

    def step(self, closure=None) -> None:
        self.rates.append([group["lr"] for group in self.param_groups])
        self.gradients.append([p.grad.clone() for group in self.param_groups for p in group["params"]])


def coin_law(shape: torch.Size, rng: torch.Generator) -> Bernoulli:
    return Bernoulli(initial_uniform(shape, rng))


def method_of(**fields) -> Method:
    """Coins read through a relaxed sign, moved by a Recorder unless told otherwise."""
    choices = {
        "law": coin_law,
        "train": lambda progress: Reading(Draw(RelaxedSign(0.5)), SIGNS),
        "solvers": lambda model, budget: [Recorder(model.parameters())],
        "predictors": [mode(SIGNS)],
    }
    return Method(**{**choices, **fields})


def network(method: Method, **options) -> Network:
    return build(
        "mlp", InputForm(FEATURES), CLASSES, method.law, generator("fit", "init"), **{"widths": (5,), **options}
    )


def run_of(
    method: Method,
    *,
    steps: int = 10,
    batch: int = 5,
    schedule: str = "cosine",
    order: int = 0,
    noise: int = 0,
    prepared: Prepared | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    model: nn.Module | None = None,
    **options,
) -> Run:
    model = (network(method, **options) if model is None else model).to(device=device, dtype=dtype)
    return Run(
        model,
        method,
        INPUTS.to(device),
        LABELS.to(device),
        Budget(N, batch, steps),
        schedule=schedule,
        order=generator("order", order),
        noise=generator("noise", noise, device=device),
        prepared=prepared,
    )


def keeping(seen: list, **fields) -> Method:
    """A method whose objective keeps every Context."""

    def objective(loss: torch.Tensor, context: Context) -> torch.Tensor:
        seen.append(context)
        return loss

    return method_of(objective=objective, **fields)


def scripted(losses: list[float], **fields) -> Method:
    """A method whose steps have the given losses, by the escape hatch."""
    values = iter(losses)

    def step(model: nn.Module, context: Context, rng: torch.Generator) -> torch.Tensor:
        return torch.tensor(next(values))

    return method_of(step=step, **fields)


# ---------------------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("cosine", lambda t, total: math.cos(math.pi * t / total / 2) ** 2),  # = (1 + cos(pi t / T)) / 2
        ("linear", lambda t, total: (total - t) / total),
        ("constant", lambda t, total: 1.0),
    ],
)
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_the_learning_rate_follows_the_schedule_from_its_start_value(schedule, factor, steps):
    run = run_of(method_of(), steps=steps, schedule=schedule)
    fit(run)
    (recorder,) = run.solvers
    assert len(recorder.rates) == steps
    for t, (rate,) in enumerate(recorder.rates):
        assert rate == pytest.approx(0.5 * factor(t, steps), rel=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_an_annealed_run_starts_at_lr_and_ends_near_zero(schedule):
    steps = 90
    run = run_of(method_of(), steps=steps, schedule=schedule)
    fit(run)
    rates = [rate for (rate,) in run.solvers[0].rates]
    assert rates[0] == 0.5
    assert all(later < earlier for earlier, later in zip(rates, rates[1:], strict=False))
    # the last step is one short of the end: factor 1 / T linearly, (pi / 2T)^2 by the cosine's parabola at its foot
    last = 1 / steps if schedule == "linear" else (math.pi / 2 / steps) ** 2
    assert 0 < rates[-1] <= 0.5 * last * (1 + 1e-12)


def test_every_group_of_every_solver_is_scheduled_from_its_own_rate():
    def solvers(model: nn.Module, budget: Budget) -> list[Optimizer]:
        first, *rest = model.parameters()
        return [Recorder([{"params": [first], "lr": 3.0}]), Recorder([{"params": rest, "lr": 0.01}])]

    run = run_of(method_of(solvers=solvers), steps=4, schedule="linear")
    fit(run)
    assert [solver.rates for solver in run.solvers] == [
        [[pytest.approx(3.0 * f)] for f in (1, 0.75, 0.5, 0.25)],
        [[pytest.approx(0.01 * f)] for f in (1, 0.75, 0.5, 0.25)],
    ]


def test_the_method_is_asked_for_its_reading_at_each_steps_progress():
    asked = []

    def train(progress: float) -> Reading:
        asked.append(progress)
        return Reading(Draw(StraightThrough()), SIGNS)

    fit(run_of(method_of(train=train), steps=8))
    assert asked == [t / 8 for t in range(8)]


def test_an_unknown_schedule_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"schedule must be one of cosine, linear, constant \(got 'step'\)"):
        run_of(method_of(), schedule="step")
    assert set(SCHEDULES) == {"cosine", "linear", "constant"}


# ----------------------------------------------------------------------------------------------------- batches


def indices_of(method: Callable[[list], Method], **options) -> list[torch.Tensor]:
    seen: list[Context] = []
    fit(run_of(method(seen), **options))
    return [context.indices for context in seen]


@pytest.mark.parametrize("batch", [2, 5, 7, 23])
def test_an_epoch_is_full_batches_of_distinct_examples(batch):
    per_epoch = N // batch
    seen = indices_of(keeping, batch=batch, steps=3 * per_epoch)
    epochs = [torch.cat(seen[e * per_epoch : (e + 1) * per_epoch]).tolist() for e in range(3)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == per_epoch * batch
        assert set(epoch) <= set(range(N))
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_remainder_that_an_epoch_drops_is_another_one_each_time():
    # 23 = 4 x 5 + 3: an example is dropped with probability 3 / 23 an epoch, in all of 20 with 1e-18
    seen = indices_of(keeping, batch=5, steps=4 * 20)
    assert set(torch.cat(seen).tolist()) == set(range(N))


def test_a_batch_larger_than_the_training_set_is_the_training_set():
    seen = indices_of(keeping, batch=100, steps=3)
    assert [sorted(batch.tolist()) for batch in seen] == [list(range(N))] * 3


def by_escape(seen: list) -> Method:
    def step(model: nn.Module, context: Context, rng: torch.Generator) -> torch.Tensor:
        seen.append(context)
        torch.rand(3, generator=rng)  # a method may use other amounts of noise
        return torch.tensor(1.0)

    return method_of(step=step)


@pytest.mark.parametrize(
    "other",
    [
        by_escape,
        lambda seen: keeping(seen, train=lambda progress: Reading(Draw(StraightThrough()), SIGNS)),
        lambda seen: replace(ste(), objective=keeping(seen).objective),
        lambda seen: replace(full_precision(), objective=keeping(seen).objective),
    ],
    ids=["escape hatch", "other reading", "ste", "full-precision"],
)
def test_every_method_sees_the_same_batches_from_the_same_order_generator(other):
    one, two = indices_of(keeping, steps=13), indices_of(other, steps=13, noise=1)
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in two]


def test_another_order_generator_gives_other_batches():
    one, two = indices_of(keeping, order=0), indices_of(keeping, order=1)
    assert [batch.tolist() for batch in one] != [batch.tolist() for batch in two]


# ------------------------------------------------------------------------------------------- budget and reports


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 11])
def test_the_budget_in_steps_is_spent_exactly_whether_or_not_it_ends_an_epoch(steps):
    epochs: list[Epoch] = []
    fitted = fit(run_of(method_of(), steps=steps), watch=epochs.append)  # 23 // 5 = 4 steps an epoch
    assert fitted.steps == steps and fitted.diverged is None
    ends = sorted({*range(4, steps + 1, 4), steps})
    assert [epoch.step for epoch in epochs] == ends
    assert [epoch.epoch for epoch in epochs] == list(range(1, len(ends) + 1))


@pytest.mark.parametrize("draws", [1, 3])
def test_passes_are_steps_times_draws(draws):
    calls = []
    run = run_of(method_of(draws=draws), steps=6)
    run.model.register_forward_pre_hook(lambda module, args: calls.append(1))
    fitted = fit(run)
    assert fitted.passes == len(calls) == 6 * draws


def test_the_reported_training_loss_is_the_epochs_mean_before_the_objective():
    losses = [float(v) for v in range(1, 11)]
    epochs: list[Epoch] = []
    fit(run_of(scripted(losses), steps=10), watch=epochs.append)
    assert [epoch.train_loss for epoch in epochs] == [2.5, 6.5, 9.5]  # exact: means of at most four small integers


def test_the_loss_of_a_step_is_the_mean_cross_entropy_of_its_passes_whatever_the_objective():
    seen: list[torch.Tensor] = []

    def objective(loss: torch.Tensor, context: Context) -> torch.Tensor:
        seen.append(loss.detach())
        return 1000 * loss + 7

    run = run_of(method_of(objective=objective, draws=3), steps=2, dtype=torch.float64)
    value = run.step()
    assert not value.requires_grad and len(seen) == 3
    torch.testing.assert_close(value, torch.stack(seen).mean(), rtol=1e-15, atol=0)


def test_preparation_is_counted_in_the_budget():
    # 4 of 10 steps are spent before the loop, which therefore takes 6 and starts inside the schedule
    epochs: list[Epoch] = []
    run = run_of(method_of(), steps=10, schedule="linear", prepared=Prepared(steps=4))
    fitted = fit(run, watch=epochs.append)
    (recorder,) = run.solvers
    assert [rate for (rate,) in recorder.rates] == [pytest.approx(0.5 * (10 - t) / 10) for t in range(4, 10)]
    assert fitted.steps == 10
    assert [(e.epoch, e.step) for e in epochs] == [(2, 8), (3, 10)]


def test_a_method_may_finish_in_its_preparation():
    run = run_of(method_of(), steps=10, prepared=Prepared(steps=10))
    fitted = fit(run)
    assert fitted == Fitted(10, 10, fitted.seconds, None)
    assert run.solvers[0].rates == []


def test_preparation_that_overspends_the_budget_is_refused():
    with pytest.raises(ValueError, match=r"prepare spent 11 steps, more than the budget of 10"):
        run_of(method_of(), steps=10, prepared=Prepared(steps=11))


def test_a_budget_for_another_training_set_is_refused():
    model = network(method := method_of())
    message = r"the budget is for 100 training examples, but there are 23 inputs and 23 labels"
    with pytest.raises(ValueError, match=message):
        Run(
            model,
            method,
            INPUTS,
            LABELS,
            Budget(100, 5, 10),
            schedule="cosine",
            order=generator("order"),
            noise=generator("noise"),
        )


# ------------------------------------------------------------------------------------------- what an objective sees


@pytest.mark.parametrize("device", DEVICES)
def test_the_context_holds_the_batch_its_labels_and_its_indices(device):
    seen: list[Context] = []
    head = {"head": nn.Linear(2, 2).requires_grad_(False)}
    run = run_of(keeping(seen), steps=6, device=device, prepared=Prepared(modules=head, steps=0))
    fit(run)
    for t, context in enumerate(seen):
        assert context.inputs.device.type == context.indices.device.type == device
        assert torch.equal(context.inputs.cpu(), INPUTS[context.indices.cpu()])
        assert torch.equal(context.labels.cpu(), LABELS[context.indices.cpu()])
        assert context.model is run.model and context.modules["head"] is head["head"]
        assert context.progress == t / 6


def test_the_context_keeps_the_draw_of_every_law_and_every_sign_of_its_pass():
    kept = []

    def objective(loss: torch.Tensor, context: Context) -> torch.Tensor:
        drawn = [(d.law, d.weights.clone(), d.latent.clone()) for d in context.tape.drawn]
        kept.append((drawn, [pair.name for pair in context.tape.signs]))
        for pair in context.tape.signs:
            assert torch.equal(pair.after, sign(pair.before))
        return loss

    run = run_of(method_of(objective=objective, draws=2), steps=3, widths=(5, 4), activation="sign")
    fit(run)
    assert len(kept) == 6
    for drawn, signs in kept:
        assert [law for law, _, _ in drawn] == [law for _, law in laws(run.model)]
        assert signs == ["layers.2", "layers.6"]
        for _, weights, latent in drawn:
            assert torch.equal(weights, torch.tanh(latent / 0.5))
    assert not torch.equal(kept[0][0][0][1], kept[1][0][0][1])  # each pass of a step draws anew


def test_an_objective_may_differentiate_what_the_tape_holds():
    # the gradient of |pre-sign|^2 alone must reach the first law through the drawn weights
    def objective(loss: torch.Tensor, context: Context) -> torch.Tensor:
        return 0 * loss + context.tape.signs[0].before.square().mean()

    method = method_of(objective=objective)
    run = run_of(method, steps=1, activation="sign", affine=True, eps=1.0)
    run.step()
    names = [name for name, _ in run.model.named_parameters()]
    gradients = dict(zip(names, run.solvers[0].gradients[0], strict=True))
    assert gradients["layers.0.law.natural"].abs().max() > 0
    assert gradients["layers.4.law.natural"].abs().max() == 0


def test_modules_from_preparation_are_trained_by_the_solver_that_claims_them():
    gain = nn.Linear(1, 1)

    def objective(loss: torch.Tensor, context: Context) -> torch.Tensor:
        return loss + context.modules["gain"].weight.sum()

    solver = SGD(gain.parameters(), lr=0.25)
    run = run_of(
        method_of(objective=objective),
        steps=1,
        schedule="constant",
        prepared=Prepared(modules={"gain": gain}, solvers=[solver]),
    )
    before = gain.weight.item()
    run.step()
    assert gain.weight.item() == pytest.approx(before - 0.25)  # d/d weight of the sum is 1


def test_modules_from_preparation_must_be_claimed_once_unless_they_need_no_gradient():
    head = {"head": nn.Linear(2, 2)}
    with pytest.raises(ClaimError, match=r"parameter 'head.weight' is claimed by no solver"):
        run_of(method_of(), prepared=Prepared(modules=head))
    twice = [SGD(head["head"].parameters(), lr=0.1), SGD([head["head"].bias], lr=0.1)]
    with pytest.raises(ClaimError, match=r"parameter 'head.bias' is claimed 2 times"):
        run_of(method_of(), prepared=Prepared(modules=head, solvers=twice))
    head["head"].requires_grad_(False)
    run_of(method_of(), prepared=Prepared(modules=head))


def test_forwards_of_prepared_modules_are_counted_in_the_passes():
    fitted = fit(run_of(method_of(draws=2), steps=7, prepared=Prepared(passes=1)))
    assert (fitted.steps, fitted.passes) == (7, 21)


def test_methods_that_draw_more_noise_drop_the_same_inputs():
    # what the input layer's contraction sees: zero where dropped
    def dropped(method: Method) -> list[torch.Tensor]:
        model = network(method, dropout=0.5)
        run = Run(
            model,
            method,
            INPUTS,
            LABELS,
            Budget(N, 5, 4),
            schedule="constant",
            order=generator("order"),
            noise=generator("noise"),
            masks=generator("masks"),
        )
        seen: list[torch.Tensor] = []
        model.layers[0].dropout.register_forward_hook(lambda module, inputs, output: seen.append(output == 0))
        for _ in range(3):
            run.step()
        return seen

    for one, other in zip(dropped(ste()), dropped(bayesbinn_published()), strict=True):
        assert torch.equal(one, other)


# ------------------------------------------------------------------------------------------------- draws average


def test_the_gradient_of_two_draws_is_the_mean_of_two_single_ones():
    # Full batches, nothing moves: two steps of one draw use the noise that one step of two draws uses. Only the order
    # of examples differs, which sums of 23 float64 numbers feel at 1e-15.
    both = run_of(method_of(draws=2), steps=1, batch=N, dtype=torch.float64, affine=True)
    both.step()
    single = run_of(method_of(), steps=2, batch=N, dtype=torch.float64, affine=True)
    fit(single)
    first, second = single.solvers[0].gradients
    assert not torch.equal(first[0], second[0])
    for got, one, two in zip(both.solvers[0].gradients[0], first, second, strict=True):
        torch.testing.assert_close(got, (one + two) / 2, rtol=1e-10, atol=1e-14)


def test_a_step_differentiates_the_mean_loss_of_its_batch():
    # the whole chain, written out: one hidden layer, relaxed signs, batch norm by the batch, mean cross-entropy
    run = run_of(method_of(), steps=1, batch=N, dtype=torch.float64)
    naturals = [law.natural.detach().clone().requires_grad_() for _, law in laws(run.model)]
    loss = run.step()
    rng, h = generator("noise", 0), INPUTS.double()
    for i, natural in enumerate(naturals):
        u = torch.rand(natural.shape, generator=rng, dtype=torch.float64)
        h = h @ torch.tanh((natural + 0.5 * torch.log(u / (1 - u))) / 0.5).T
        h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-4).sqrt()
        h = h.relu() if i == 0 else h
    permutation = torch.randperm(N, generator=generator("order", 0))
    expected = F.cross_entropy(h[permutation], LABELS[permutation])
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    for got, natural in zip(run.solvers[0].gradients[0], naturals, strict=True):
        # autograd's 1 - tanh^2 cancels: |latent / 0.5| < 12 for these noises, so 1e-16 e^24 of the slope at worst
        torch.testing.assert_close(got, natural.grad, rtol=1e-5, atol=1e-10)


def test_gradients_of_one_step_do_not_leak_into_the_next():
    one = run_of(method_of(), steps=2, batch=N, dtype=torch.float64)
    fit(one)
    later = run_of(method_of(), steps=2, batch=N, dtype=torch.float64)
    later.noise.set_state(one_step_on("noise"))
    later.order.set_state(order_one_step_on())
    later.step()
    for got, alone in zip(one.solvers[0].gradients[1], later.solvers[0].gradients[0], strict=True):
        torch.testing.assert_close(got, alone, rtol=1e-12, atol=1e-15)


def one_step_on(part: str) -> torch.Tensor:
    """The state of the noise generator after one pass of the network of these tests."""
    rng, model = generator(part, 0), network(method_of()).double()
    for _, law in laws(model):
        law.noise(rng)
    return rng.get_state()


def order_one_step_on() -> torch.Tensor:
    rng = generator("order", 0)
    torch.randperm(N, generator=rng)
    return rng.get_state()


# -------------------------------------------------------------------------------------------------- escape hatch


class Counter(WeightLaw):
    """Signs held as int8 counters: no float parameter, as integer-only training keeps them."""

    count: torch.Tensor

    def __init__(self, count: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("count", count)
        self.shape = count.shape

    def noise(self, rng):
        return None

    def latent(self, noise):
        return self.count.float()

    def values(self, latent):
        return sign(latent)

    def pull_back(self, noise, gradient):
        return ()

    def mean(self):
        return sign(self.count.float())

    def mode(self):
        return sign(self.count.float())

    def coordinates(self):
        return ()


def integer_method() -> Method:
    def law(shape: torch.Size, rng: torch.Generator) -> Counter:
        return Counter(torch.randint(-5, 6, tuple(shape), generator=rng).to(torch.int8))

    def step(model: nn.Module, context: Context, rng: torch.Generator) -> torch.Tensor:
        for _, counter in laws(model):
            counter.count += torch.randint(-1, 2, tuple(counter.shape), generator=rng).to(torch.int8)
        return torch.tensor(float(context.labels.float().mean()))

    return method_of(law=law, step=step, solvers=lambda model, budget: [])


def test_integer_only_training_runs_through_the_escape_hatch_without_solvers():
    run = run_of(integer_method(), steps=9)
    assert list(run.model.parameters()) == []
    before = [law.count.clone() for _, law in laws(run.model)]
    epochs: list[Epoch] = []
    fitted = fit(run, watch=epochs.append)
    assert fitted.steps == fitted.passes == 9 and [e.step for e in epochs] == [4, 8, 9]
    for (_, law), start in zip(laws(run.model), before, strict=True):
        assert law.count.dtype == torch.int8
        assert not torch.equal(law.count, start)
        assert (law.count - start).abs().max() <= 9


def test_the_escape_hatch_replaces_forward_backward_and_update():
    calls = []
    run = run_of(scripted([1.0, 2.0]), steps=2)
    run.model.register_forward_pre_hook(lambda module, args: calls.append(1))
    assert run.step().item() == 1.0
    assert calls == [] and run.solvers[0].rates == []


# ---------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 19, 20, 21, 24, 25, 39, 40, 41, 44, 47])
def test_divergence_names_the_exact_step_and_the_last_finite_loss(step, bad):
    # 4 steps an epoch; CHECK_EVERY = 20; 47 is the last step and ends no epoch
    losses = [float(t) for t in range(1, 48)]
    losses[step - 1] = bad
    epochs: list[Epoch] = []
    fitted = fit(run_of(scripted(losses), steps=47), watch=epochs.append)
    assert fitted.diverged is not None
    assert fitted.diverged.step == step
    last = fitted.diverged.last_finite_loss
    assert math.isnan(last) if step == 1 else last == step - 1
    assert [e.step for e in epochs] == list(range(4, step, 4))  # finished epochs only
    assert step <= fitted.steps < step + CHECK_EVERY
    assert fitted.passes == fitted.steps


@pytest.mark.parametrize("step", [1, 19, 20, 21, 22, 40, 41, 59, 60, 61, 63])
def test_divergence_is_found_within_an_epoch_longer_than_the_checks(step):
    losses = [float(t) for t in range(1, 64)]
    losses[step - 1 :] = [math.nan] * (64 - step)
    fitted = fit(run_of(scripted(losses), steps=63, batch=1))  # 23 steps an epoch
    assert fitted.diverged is not None and fitted.diverged.step == step
    checks = sorted({*range(20, 64, 20), *range(23, 64, 23), 63})
    assert fitted.steps == next(c for c in checks if c >= step)


def test_divergence_after_a_resumption_counts_from_the_runs_beginning():
    run = run_of(scripted([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, math.nan, 8.0]), steps=12)
    for _ in range(5):
        run.step()
    fitted = fit(run)
    assert fitted.diverged == Diverged(7, 6.0)


def test_a_real_run_that_overflows_is_diverged_not_crashed():
    def solvers(model: nn.Module, budget: Budget) -> list[Optimizer]:
        return [SGD(model.parameters(), lr=1e30)]

    method = replace(full_precision(), solvers=solvers, objective=lambda loss, context: loss * 1e10)
    fitted = fit(run_of(method, steps=40))
    assert fitted.diverged is not None
    assert math.isfinite(fitted.diverged.last_finite_loss) and fitted.diverged.step > 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_parameter_that_a_sign_hides_is_found_when_the_epoch_ends(bad):
    # sign(nan) and sign(inf) are signs: the loss stays finite
    run = run_of(bop(), steps=12)
    run.step()
    name, law = next(iter(laws(run.model)))
    with torch.no_grad():
        law.coordinates()[0].parameter[0, 0] = bad
    epochs: list[Epoch] = []
    diverged = fit(run, watch=epochs.append).diverged
    assert diverged is not None and diverged.step == run.budget.steps_per_epoch and epochs == []
    assert str(diverged).startswith(f"parameter '{name}.latents' not finite at step {diverged.step}; last finite loss ")


def test_divergence_reads_as_a_sentence():
    assert str(Diverged(7, 0.25)) == "loss not finite at step 7; last finite loss 0.25"
    assert str(Diverged(1, math.nan)) == "loss not finite at step 1; no finite loss before it"


# ------------------------------------------------------------------------------------------------ watch and clock


def test_watch_is_off_the_clock_and_training_is_on_it(monkeypatch):
    # a clock that only the steps and the watch move: a step takes 1 s, a look 1000 s
    now = [0.0]
    monkeypatch.setattr(core.fit, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step(model: nn.Module, context: Context, rng: torch.Generator) -> torch.Tensor:
        now[0] += 1.0
        return torch.tensor(1.0)

    epochs: list[Epoch] = []

    def watch(epoch: Epoch) -> None:
        epochs.append(epoch)
        now[0] += 1000.0

    fitted = fit(run_of(method_of(step=step), steps=10), watch=watch)
    assert [epoch.seconds for epoch in epochs] == [4.0, 8.0, 10.0]
    assert fitted.seconds == 10.0 and now[0] == 3010.0


def test_a_run_that_diverges_counts_its_seconds_up_to_the_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(core.fit, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step(model: nn.Module, context: Context, rng: torch.Generator) -> torch.Tensor:
        now[0] += 1.0
        return torch.tensor(math.nan if now[0] == 6 else 1.0)

    fitted = fit(run_of(method_of(step=step), steps=10))
    assert fitted.diverged == Diverged(6, 1.0)
    assert fitted.seconds == fitted.steps == 8


class Stop(Exception):
    pass


def test_an_exception_of_the_watch_ends_the_run_where_it_is():
    run = run_of(method_of(), steps=12)

    def watch(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(run, watch=watch)
    assert run.done == 8


# -------------------------------------------------------------------------------------------------------- claims


def test_an_unclaimed_parameter_is_named():
    def solvers(model: nn.Module, budget: Budget) -> list[Optimizer]:
        return [SGD([p for name, p in model.named_parameters() if name != "layers.1.bias"], lr=0.1)]

    message = r"parameter 'layers.1.bias' is claimed by no solver; add it to one of the method's solvers"
    with pytest.raises(ClaimError, match=message):
        run_of(method_of(solvers=solvers), affine=True)


def test_a_parameter_claimed_twice_is_named_with_its_claimants():
    def solvers(model: nn.Module, budget: Budget) -> list[Optimizer]:
        first, *_ = model.parameters()
        return [Recorder(model.parameters()), SGD([first], lr=0.1)]

    message = r"'layers.0.law.natural' is claimed 2 times, by Recorder \(solver 0\) and SGD \(solver 1\)"
    with pytest.raises(ClaimError, match=message):
        run_of(method_of(solvers=solvers))


def test_a_network_of_buffers_needs_no_solver():
    check_claims(network(integer_method()), [])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "options", [{}, {"affine": True}, {"widths": (5, 4), "first": "real", "last": "real"}], ids=str
)
def test_the_built_in_methods_claim_every_parameter_once(name, options):
    run_of(METHODS[name](), **options)


# --------------------------------------------------------------------------------------- saved and continued


def weights(run: Run) -> list[torch.Tensor]:
    return [value.clone() for value in run.model.state_dict().values()]


def identical(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("cut", [1, 4, 6])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_saved_to_a_file_continues_identically_bitwise(name, cut):
    options = {"steps": 11, "dropout": 0.25, "affine": True}
    whole = run_of(METHODS[name](), **options)
    losses = [whole.step().item() for _ in range(11)]
    first = run_of(METHODS[name](), **options)
    for _ in range(cut):
        first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    # other seeds: everything must come from the state
    second = run_of(METHODS[name](), **options, order=8, noise=9)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [second.step().item() for _ in range(11 - cut)] == losses[cut:]
    assert second.done == 11 and identical(weights(second), weights(whole))


@pytest.mark.parametrize("name", METHODS)
def test_a_state_stays_what_it_was_when_its_run_goes_on(name):
    run = run_of(METHODS[name](), steps=11)
    for _ in range(3):
        run.step()
    state = run.state_dict()
    kept = weights(run)
    losses = [run.step().item() for _ in range(8)]
    end = weights(run)
    for _ in range(2):  # twice: loading must not hand the state's own tensors to a run that then moves them
        again = run_of(METHODS[name](), steps=11)
        again.load_state_dict(state)
        assert identical(weights(again), kept)
        assert [again.step().item() for _ in range(8)] == losses
        assert identical(weights(again), end)  # latents, not only the signs that the losses see


def test_modules_from_preparation_are_saved_and_restored():
    def prepared() -> Prepared:
        head = nn.Linear(2, 2)
        return Prepared(modules={"head": head}, solvers=[SGD(head.parameters(), lr=0.1)])

    one, two = run_of(method_of(), prepared=prepared()), run_of(method_of(), prepared=prepared())
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.prepared.modules["head"].weight, two.prepared.modules["head"].weight)


def test_integer_buffers_continue_identically():
    whole = run_of(integer_method(), steps=9)
    fit(whole)
    first, second = run_of(integer_method(), steps=9), run_of(integer_method(), steps=9, noise=3, order=3)
    for _ in range(5):
        first.step()
    second.load_state_dict(first.state_dict())
    fit(second)
    assert identical(weights(second), weights(whole))


# -------------------------------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", METHODS)
def test_the_same_generators_give_the_same_weights_and_another_noise_others(name, device):
    options = {"steps": 12, "dropout": 0.25, "device": device}
    one, two, other = (run_of(METHODS[name](), **options, noise=i) for i in (0, 0, 1))
    for run in (one, two, other):
        fit(run)
    assert identical(weights(one), weights(two))
    assert not identical(weights(one), weights(other))


@pytest.mark.parametrize("name", METHODS)
def test_training_leaves_the_global_generators_alone(name):
    run = run_of(METHODS[name](), steps=6, dropout=0.25, activation="sign")
    # python's own generator is left out: under test, the type checker draws from it to choose which items it looks at
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    fit(run)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1] == after[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_training_fits_separable_data_on_every_device_in_every_precision(device, dtype):
    # labels by the sign of one feature, noise-free: a linear rule, found when the loss is differentiated correctly
    labels = (INPUTS[:, 0] > 0).long()
    method = ste()
    model = network(method).to(device=device, dtype=dtype)
    run = Run(
        model,
        method,
        INPUTS.to(device),
        labels.to(device),
        Budget(N, N, 200),
        schedule="cosine",
        order=generator("order"),
        noise=generator("noise", device=device),
    )
    epochs: list[Epoch] = []
    fit(run, watch=epochs.append)
    assert epochs[-1].train_loss < 0.5 * epochs[0].train_loss
    assert all(p.dtype == dtype and p.device.type == device for p in run.model.parameters())


def test_training_updates_running_averages_for_monitoring():
    run = run_of(method_of(), steps=3)
    norms = [m for m in run.model.modules() if isinstance(m, BatchNorm)]
    before = [n.running_mean.clone() for n in norms]
    fit(run)
    assert all(not torch.equal(n.running_mean, b) for n, b in zip(norms, before, strict=True))


def test_a_point_law_trains_as_the_linear_layer_it_is():
    # one linear map, no norm: the gradient at the latents is that of cross-entropy at sign(latents), slope 1
    law = Point(torch.randn((CLASSES, FEATURES), generator=generator("point"), dtype=torch.float64))
    method = method_of(train=lambda progress: Reading(Draw(StraightThrough()), SIGNS))
    run = run_of(method, model=Network(BinaryLinear(law), activation="relu"), batch=N, dtype=torch.float64)
    signs = sign(law.latents.detach()).requires_grad_()
    F.cross_entropy(INPUTS.double() @ signs.T, LABELS).backward()
    run.step()
    torch.testing.assert_close(run.solvers[0].gradients[0][0], signs.grad, rtol=1e-12, atol=1e-14)
