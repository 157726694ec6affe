"""Fused solvers and draws made ahead: the plain rules fed the same noise, and that nothing can be lost on the way."""

import pytest
import torch

from core import extension, native
from core.claims import binary_laws, laws
from core.contractions import Dense
from core.counter import logistic
from core.geometry import EUCLIDEAN, BernoulliFisher, Box, UnitRows
from core.interface import Budget, Reading, Tape
from core.laws import Bernoulli, Point
from core.layers import BinaryLinear, Chain
from core.low_rank import LowRank, SymmetricLowRank
from core.ops import ClippedStraightThrough, RelaxedSign, StraightThrough
from core.prefetch import Prefetched, Slots
from core.readings import Draw, SignActivation
from methods.bayesbinn import bayesbinn
from solvers import passes
from solvers.fused import FusedAdam
from solvers.fused_rows import FusedRows
from solvers.fused_rule import FusedLearningRule
from solvers.geometric import GeometricAdam, GeometricSGD

ACTIVATIONS = SignActivation(ClippedStraightThrough())
SHAPE = torch.Size((3, 5))


@pytest.fixture(params=["native", "torch"])
def path(request, monkeypatch) -> str:
    """Both paths, on whatever machine has them."""
    if request.param == "torch":
        monkeypatch.setattr(native, "serves", lambda *tensors: False)
        monkeypatch.setattr(extension, "warn_once", lambda: None)
    elif extension.info().path != "native":
        pytest.skip("the native extension is not built here")
    return request.param


def bernoulli(dtype=torch.float32, seed=0) -> Bernoulli:
    rng = torch.Generator().manual_seed(seed)
    natural = 4 * torch.rand(SHAPE, generator=rng, dtype=dtype) - 2
    return Bernoulli(natural, prior=torch.randn(SHAPE, generator=rng, dtype=dtype), geometry=BernoulliFisher(5.0))


def point(dtype=torch.float32, seed=0) -> Point:
    rng = torch.Generator().manual_seed(seed)
    return Point(2 * torch.rand(SHAPE, generator=rng, dtype=dtype) - 1, geometry=Box(0.8))


def low_rank(geometry=None, dtype=torch.float32, seed=0) -> LowRank:
    rng = torch.Generator().manual_seed(seed)
    start = UnitRows().project(torch.randn(4, *SHAPE, generator=rng, dtype=dtype))
    return LowRank(start, geometry=geometry or UnitRows())


class Trained:
    """A law, its solver and a reading, on a small regression. One `step` returns the draw it used."""

    def __init__(self, law, make, surrogate, noise_seed=3, *, ahead: bool = True) -> None:
        self.law, self.slots = law, Slots()
        self.solver = make(law, self.slots)
        self.reading = Prefetched(surrogate, self.slots) if ahead else Draw(surrogate)
        self.rng = torch.Generator().manual_seed(noise_seed)
        self.data = torch.Generator().manual_seed(9)

    def forward(self, tape: Tape) -> torch.Tensor:
        dtype = self.law.coordinates()[0].parameter.dtype
        x, target = (torch.randn(8, n, generator=self.data).to(dtype) for n in (5, 3))
        return (self.reading(self.law, Dense(), x, self.rng, tape) - target).square().mean()

    def step(self, passes: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
        self.solver.zero_grad()
        used = []
        for _ in range(passes):
            tape = Tape()
            self.forward(tape).backward()
            drawn = tape.drawn[0]
            used.append((drawn.weights.detach().clone(), None if drawn.noise is None else drawn.noise.clone()))
            tape.pull_back()
        self.solver.step()
        return used


def rule(law, slots, lr=0.05, momentum=0.9):
    return FusedLearningRule([law], slots=slots, lr=lr, scale=20.0, momentum=momentum, decay=1.0)


def plain_rule(law, slots, lr=0.05, momentum=0.9):
    return GeometricSGD(law.coordinates(), lr=lr, scale=20.0, momentum=momentum, decay=1.0)


def rows(law, slots, momentum=0.9):
    return FusedRows([law], slots=slots, lr=0.3, scale=2.0, momentum=momentum)


def plain_rows(law, momentum=0.9):
    return GeometricSGD(law.coordinates(), lr=0.3, scale=2.0, momentum=momentum)


def adam(law, slots):
    return FusedAdam([law], slots=slots, lr=0.05)


def plain_adam(law, slots):
    return GeometricAdam(law.coordinates(), lr=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.3])
def test_fused_learning_rule_is_draw_and_geometric_sgd_fed_the_same_noise(path, dtype, momentum, temperature):
    surrogate = RelaxedSign(temperature)
    ours = Trained(bernoulli(dtype), lambda law, slots: rule(law, slots, momentum=momentum), surrogate)
    plain = Trained(
        bernoulli(dtype), lambda law, slots: plain_rule(law, slots, momentum=momentum), surrogate, ahead=False
    )
    for step in range(1, 7):
        ((weights, noise),) = ours.step()
        plain.law.noise = lambda rng, noise=noise: noise
        ((twin, _),) = plain.step()
        # Roundings of |natural| + |noise| < 10, over the temperature, in each of `step` steps
        error = step * 40 * torch.finfo(dtype).eps / temperature
        assert (weights - twin).abs().max() <= error
        assert (ours.law.natural - plain.law.natural).abs().max() <= 20 * error
    assert (ours.law.natural - bernoulli(dtype).natural).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("geometry", [UnitRows(), EUCLIDEAN], ids=["unit", "free"])
def test_fused_rows_are_draw_and_geometric_sgd_fed_the_same_normals(path, dtype, momentum, geometry):
    ours = Trained(low_rank(geometry, dtype), lambda law, slots: rows(law, slots, momentum), StraightThrough())
    plain = Trained(
        low_rank(geometry, dtype), lambda law, slots: plain_rows(law, momentum), StraightThrough(), ahead=False
    )
    for step in range(1, 9):
        ((weights, noise),) = ours.step()
        plain.law.noise = lambda rng, noise=noise: noise
        ((twin, _),) = plain.step()
        assert torch.equal(weights, twin)
        assert (ours.law.rows - plain.law.rows).abs().max() <= step * 40 * torch.finfo(dtype).eps
    assert (ours.law.rows - low_rank(geometry, dtype).rows).abs().max() > 0.1
    if isinstance(geometry, UnitRows):
        assert (ours.law.rows.norm(dim=0) - 1).abs().max() <= 1e-6


def test_low_rank_laws_without_a_fused_pass_take_the_plain_step():
    def symmetric() -> SymmetricLowRank:
        return SymmetricLowRank(low_rank().rows.detach().clone())

    ours = Trained(symmetric(), rows, StraightThrough())
    plain = Trained(symmetric(), lambda law, slots: plain_rows(law), StraightThrough(), ahead=False)
    for _ in range(3):
        ours.step()
        plain.step()
    assert torch.equal(ours.law.rows, plain.law.rows) and not ours.slots.of
    assert not torch.equal(ours.law.rows, symmetric().rows)


def test_a_zero_row_becomes_the_unit_vector_that_the_geometry_names(path):
    law = LowRank(torch.zeros(3, 3, 5), geometry=UnitRows())
    trained = Trained(law, lambda law, slots: FusedRows([law], slots=slots, lr=0.0), StraightThrough())
    trained.step()
    assert torch.equal(law.rows.detach(), UnitRows().project(torch.zeros(3, 3, 5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_fused_adam_is_draw_and_geometric_adam(path, dtype):
    ours = Trained(point(dtype), adam, StraightThrough())
    plain = Trained(point(dtype), plain_adam, StraightThrough(), ahead=False)
    for step in range(1, 13):
        ((weights, _),), ((twin, _),) = ours.step(), plain.step()
        assert torch.equal(weights, twin)
        assert (ours.law.latents - plain.law.latents).abs().max() <= step * 10 * torch.finfo(dtype).eps
    assert (torch.sign(ours.law.latents) != torch.sign(point(dtype).latents)).any()


def test_several_passes_a_step_are_the_mean_rule_of_their_draws(path):
    """The second pass draws by itself, and its gradient is added to the one pulled back from the draw made ahead."""
    surrogate = RelaxedSign(0.5)
    ours, plain = Trained(bernoulli(), rule, surrogate), Trained(bernoulli(), plain_rule, surrogate, ahead=False)
    for _ in range(4):
        used = ours.step(passes=3)
        assert not torch.equal(used[0][0], used[1][0]) and not torch.equal(used[1][0], used[2][0])
        noises = iter([noise for _, noise in used])
        plain.law.noise = lambda rng, noises=noises: next(noises)
        plain.step(passes=3)
        assert (ours.law.natural - plain.law.natural).abs().max() <= 2e-4  # as above, 3 passes of 4 steps


def test_draws_follow_the_laws_probabilities_and_are_new_each_step(path):
    law = Bernoulli(torch.full((40, 50), 0.4))
    trained = Trained(law, lambda law, slots: FusedLearningRule([law], slots=slots, lr=0.0), RelaxedSign(1e-3))
    draws = []
    for _ in range(50):
        trained.solver.zero_grad()
        tape = Tape()
        trained.reading(law, Dense(), torch.ones(1, 50), trained.rng, tape).sum().backward()
        draws.append(tape.drawn[0].weights.detach().clone())
        tape.pull_back()
        trained.solver.step()
    signs = torch.stack(draws).sign().double()
    error = 5 / signs.numel() ** 0.5
    assert abs(signs.mean() - torch.tanh(torch.tensor(0.4, dtype=torch.float64))) <= error
    centred = signs - signs.mean()
    assert abs((centred[1:] * centred[:-1]).mean()) <= error  # from step to step
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) <= error  # from row to row


def test_a_pass_that_is_not_stepped_on_does_not_repeat_its_draw(path):
    trained = Trained(bernoulli(), rule, RelaxedSign(1.0))
    seen = []
    for _ in range(3):
        trained.solver.zero_grad()
        tape = Tape()
        trained.forward(tape).backward()
        seen.append(tape.drawn[0].weights.detach().clone())
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    noise = tape.drawn[0].noise
    law, latent = trained.law, trained.law.latent(noise)
    assert torch.allclose(tape.drawn[0].weights, torch.tanh(latent), atol=1e-6)
    assert torch.equal(tape.drawn[0].latent, latent.detach())
    assert law is tape.drawn[0].law


@pytest.mark.parametrize("kind", ["rule", "adam", "rows"])
def test_saved_state_continues_bit_for_bit(path, kind, through_file):
    law, make, surrogate = {
        "rule": (bernoulli, rule, RelaxedSign(0.3)),
        "adam": (point, adam, StraightThrough()),
        "rows": (low_rank, rows, StraightThrough()),
    }[kind]
    run, fresh = Trained(law(), make, surrogate), Trained(law(seed=1), make, surrogate)
    fresh.step()  # it holds a draw of its own, which the load must discard
    for _ in range(5):
        run.step()
    saved = through_file({"law": run.law.state_dict(), "solver": run.solver.state_dict(), "rng": run.rng.get_state()})
    fresh.law.load_state_dict(saved["law"])
    fresh.solver.load_state_dict(saved["solver"])
    fresh.rng.set_state(saved["rng"])
    fresh.data.set_state(run.data.get_state())
    for _ in range(5):
        ((a, _),), ((b, _),) = run.step(), fresh.step()
        assert torch.equal(a, b)
    ours, theirs = (t.law.coordinates()[0].parameter for t in (run, fresh))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("change", ["write", "load", "surrogate"])
def test_a_draw_made_ahead_is_made_again_when_what_it_came_from_has_changed(path, change):
    trained = Trained(bernoulli(), rule, RelaxedSign(1.0))
    trained.step()
    if change == "write":
        with torch.no_grad():
            trained.law.natural.add_(1.0)
    elif change == "load":
        trained.law.load_state_dict(bernoulli(seed=5).state_dict())
    else:
        trained.reading = Prefetched(RelaxedSign(0.5), trained.slots)
    tape = Tape()
    trained.forward(tape)
    (drawn,) = tape.drawn
    temperature = trained.reading.surrogate.temperature
    expected = torch.tanh((trained.law.natural + drawn.noise) / temperature)
    assert (drawn.weights - expected).abs().max() <= 40 * 2**-23 / temperature


def test_the_order_in_which_layers_are_read_does_not_matter_to_their_draws(path):
    """Each law has its own key, and what is left from a step is the law's own."""
    first, second, slots = bernoulli(seed=1), bernoulli(seed=2), Slots()
    solver = FusedLearningRule([first, second], slots=slots, lr=0.1, scale=5.0, decay=1.0)
    reading, rng, x = Prefetched(RelaxedSign(1.0), slots), torch.Generator().manual_seed(0), torch.ones(2, 5)
    for order in ((first, second), (second, first), (first, second)):
        solver.zero_grad()
        tape = Tape()
        for law in order:
            reading(law, Dense(), x, rng, tape).sum().backward()
        for drawn, law in zip(tape.drawn, order, strict=True):
            assert drawn.law is law
            assert (drawn.weights - torch.tanh(law.natural + drawn.noise)).abs().max() <= 40 * 2**-23
        tape.pull_back()
        solver.step()


def test_noise_comes_from_the_generator_of_the_pass_alone(path):
    def after(seed: int, global_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        trained = Trained(bernoulli(), rule, RelaxedSign(1.0), noise_seed=seed)
        for _ in range(3):
            trained.step()
        return trained.law.natural.detach()

    before = torch.get_rng_state()
    assert torch.equal(after(1, 0), after(1, 1))
    assert not torch.equal(after(1, 0), after(2, 0))
    torch.set_rng_state(before)


def test_laws_without_a_slot_are_drawn_by_draw():
    law, rng = bernoulli(), torch.Generator().manual_seed(1)
    tape = Tape()
    Prefetched(RelaxedSign(1.0), Slots())(law, Dense(), torch.ones(1, 5), rng, tape)
    noise = law.noise(torch.Generator().manual_seed(1))
    assert torch.equal(tape.drawn[0].noise, noise)
    assert torch.equal(tape.drawn[0].weights, torch.tanh(law.latent(noise)))


def test_methods_with_one_draw_run_ahead_and_with_two_fall_back_within_the_step():
    method = bayesbinn()
    model = Chain(BinaryLinear(method.law(SHAPE, torch.Generator().manual_seed(0))))
    solvers = method.solvers(model, Budget(8, 8, 1))
    reading = method.train(0.0)
    tape, rng = Tape(), torch.Generator().manual_seed(1)
    for _ in range(2):
        model(torch.ones(1, 5), Reading(reading.weights, ACTIVATIONS, tape=tape), rng)
    assert [type(drawn).__name__ for drawn in tape.drawn] == ["Ahead", "Drawn"]
    assert [law for _, law in laws(model)] == binary_laws(model) and len(solvers) == 1


def test_counter_noise_reaches_the_law_as_its_own_noise():
    law = bernoulli(torch.float64)
    noise = logistic(law.natural.detach(), (1, 2))
    assert noise.shape == law.shape and noise.dtype == torch.float64
    weights, factor = torch.empty_like(noise), torch.empty_like(noise)
    relaxation = native.Relaxation(0.5, 5.0)
    passes.bernoulli_draw(law.natural.detach(), weights, factor, key=(1, 2), relaxation=relaxation)
    surrogate = RelaxedSign(0.5)
    assert torch.allclose(weights, surrogate(law.latent(noise)), rtol=0, atol=1e-14)
    quotient = law.geometry.to_tangent(law.natural, surrogate.slope(law.latent(noise)))
    assert torch.allclose(factor, quotient, rtol=1e-12, atol=0)


def test_laws_and_geometries_without_a_fused_pass_are_refused_by_name():
    with pytest.raises(ValueError, match="FusedAdam moves Point laws in a Box, not a Bernoulli in BernoulliFisher"):
        FusedAdam([bernoulli()], slots=Slots(), lr=0.1)
    with pytest.raises(ValueError, match="not a Point in UnitRows; use GeometricAdam"):
        FusedAdam([Point(torch.ones(2, 3), geometry=UnitRows())], slots=Slots(), lr=0.1)
    with pytest.raises(ValueError, match="not a Bernoulli in Box; use GeometricSGD"):
        FusedLearningRule([Bernoulli(torch.ones(2, 3), geometry=Box())], slots=Slots(), lr=0.1)
    with pytest.raises(ValueError, match=r"lr must be >= 0 \(got -1.0\)"):
        FusedAdam([point()], slots=Slots(), lr=-1.0)
