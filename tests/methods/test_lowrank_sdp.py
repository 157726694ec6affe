"""lowrank-sdp and lowrank-sdp-published: conformance, rows as declared, and the released code's step in numpy."""

import math

import numpy as np
import pytest
import torch

from core.claims import laws
from core.interface import Budget, NoMode, Reading, Tape
from core.layers import BinaryLinear, Chain
from core.low_rank import LowRank, LowRankPlusDiagonal, SymmetricLowRank
from methods import make
from methods.conformance import CHECKS, loss_falls
from methods.kit.trials import advanced, start

BUDGET = Budget(n_train=100, batch=10, steps=10)
WITH_MODE = [
    {"estimator": estimator, "rows": rows}
    for estimator in ("rounded", "smooth", "conditional")
    for rows in ("retract", "reparam", "none")
]


@pytest.mark.parametrize("law", CHECKS)
@pytest.mark.parametrize("name", ["lowrank-sdp", "lowrank-sdp-published"])
def test_entries_conform(name, law):
    law(name)


def test_estimators_learn_with_other_treatments_of_rows():
    for estimator, rows in (("conditional", "retract"), ("smooth", "none")):
        loss_falls("lowrank-sdp", estimator=estimator, rows=rows)


def trained(**options) -> list[tuple[torch.Tensor, LowRank]]:
    """Each law after a few steps, with its rows before them."""
    run = start("lowrank-sdp", options)
    before = [law.rows.detach().clone() for _, law in laws(run.model)]
    advanced(run)
    return [(rows, law) for rows, (_, law) in zip(before, laws(run.model), strict=True)]


@pytest.mark.parametrize("options", WITH_MODE, ids=lambda o: "-".join(o.values()))
def test_stored_rows_move_and_are_unit_vectors_where_they_are_retracted_only(options):
    for before, law in trained(**options):
        lengths = law.rows.norm(dim=0)
        torch.testing.assert_close(before.norm(dim=0), torch.ones_like(lengths))
        assert ((law.rows - before).abs().sum(0) > 0).all()
        unit = ((lengths - 1).abs() < 1e-6).all()
        assert unit == (options["rows"] == "retract")
        used = law.columns().norm(dim=0)
        assert ((used - 1).abs() < 1e-6).all() == (options["rows"] != "none")


def test_gradients_of_the_reparametrised_rows_are_orthogonal_to_them():
    run = start("lowrank-sdp", {"rows": "reparam"})
    advanced(run)
    for _, law in laws(run.model):
        noise = law.noise(run.noise)
        (pulled,) = law.pull_back(noise, torch.randn(law.shape, generator=run.noise))
        cosine = (pulled * law.rows).sum(0) / (pulled.norm(dim=0) * law.rows.norm(dim=0)).clamp_min(1e-30)
        assert (
            cosine.abs().max() < 1e-5
        )  # some eps of float32, of entries whose tangent is far shorter than their noise


def test_the_law_is_the_one_that_the_estimator_needs():
    rng = torch.Generator().manual_seed(0)
    shape = torch.Size([3, 4])
    kinds = {"rounded": LowRank, "smooth": LowRank, "conditional": LowRankPlusDiagonal}
    for estimator, kind in kinds.items():
        law = make("lowrank-sdp", estimator=estimator, rank=3).law(shape, rng)
        assert type(law) is kind and law.rank == 3 and law.rows.shape == (4, 3, 4)


def test_initial_signs_are_those_of_every_other_method_layer_by_layer():
    names = ("ste", "lowrank-sdp", "lowrank-sdp-published", "gaussian-vi")
    modes = []
    for name in names:
        rng, method = torch.Generator().manual_seed(5), make(name)
        modes.append([method.law(torch.Size([6, 7]), rng).mode() for _ in range(3)])
    for other in modes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(modes[0], other, strict=True))


def test_the_symmetric_law_is_skipped_with_its_reason_and_exists_for_studies():
    method = make("lowrank-sdp", law="symmetric", rank=4)
    assert "law=homogenised" in method.supports(None)
    law = method.law(torch.Size([3, 4]), torch.Generator().manual_seed(0))
    assert isinstance(law, SymmetricLowRank) and law.rank == 4
    with pytest.raises(NoMode):
        law.mode()
    assert make("lowrank-sdp").supports(None) is None


@pytest.mark.parametrize("rank", [0, -1])
def test_no_columns_are_refused_naming_gaussian_vi(rank):
    with pytest.raises(ValueError, match=rf"lowrank-sdp: rank={rank}.*gaussian-vi"):
        make("lowrank-sdp", rank=rank)
    with pytest.raises(ValueError, match=rf"lowrank-sdp-published: rank={rank}.*gaussian-vi"):
        make("lowrank-sdp-published", rank=rank)


@pytest.mark.parametrize(
    "wrong",
    [{"estimator": "x"}, {"rows": "x"}, {"law": "x"}, {"scale0": 0.0}, {"diagonal": -1.0, "estimator": "conditional"}],
    ids=str,
)
def test_impossible_values_are_refused_by_name_and_value(wrong):
    key, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{key} must be.*{value}"):
        make("lowrank-sdp", **wrong)
    with pytest.raises(ValueError, match="conditional.*homogenised"):
        make("lowrank-sdp", estimator="conditional", law="symmetric")


# --- as released --------------------------------------------------------------------------------------------------


def test_released_steps_are_the_codes_rule_with_heavy_ball_momentum_and_decay_of_everything():
    rng = torch.Generator().manual_seed(2)
    method = make("lowrank-sdp-published", lr=0.3, rank=2, precision=25.0, weight_decay=0.01, momentum=0.9)
    model = Chain(BinaryLinear(method.law(torch.Size([3, 5]), rng))).double()
    ((_, law),) = laws(model)
    (solver,) = method.solvers(model, BUDGET)
    train = method.train(0.0)
    x = torch.randn(8, 5, generator=rng, dtype=torch.float64)
    target = torch.randn(8, 3, generator=rng, dtype=torch.float64)
    m, z = law.rows[0].detach().numpy().copy(), law.rows[1:].detach().numpy().copy()
    m_buffer, z_buffer = np.zeros_like(m), np.zeros_like(z)
    for _ in range(3):
        unit = torch.randn(2, generator=rng.clone_state(), dtype=torch.float64).numpy()
        r = unit / 5  # N(0, 1 / S), S = 25
        w = np.where(m + np.tensordot(r, z, 1) >= 0, 1.0, -1.0)
        g = (x.numpy() @ w.T - target.numpy()).T @ x.numpy() / 8
        m_buffer = 0.9 * m_buffer + (g + 0.01 * m)
        z_buffer = 0.9 * z_buffer + (5 * r[:, None, None] * g + 0.01 * z)
        m, z = m - 0.3 * m_buffer, z - 0.3 * z_buffer
        tape = Tape()
        loss = (model(x, Reading(train.weights, train.activations, tape=tape), rng) - target).square().sum(1).mean() / 2
        loss.backward()
        tape.pull_back()
        solver.step()
        solver.zero_grad()
        np.testing.assert_allclose(law.rows.detach().numpy(), np.concatenate([m[None], z]), rtol=1e-12)


@pytest.mark.parametrize("shape", [(200, 100), (40, 30, 3, 3)])
def test_released_initial_deviations_are_xaviers_of_the_mean_and_of_the_columns_as_one_tensor(shape):
    rng, rank = torch.Generator().manual_seed(0), 8
    law = make("lowrank-sdp-published", rank=rank).law(torch.Size(shape), rng)
    out, ins, window = shape[0], shape[1], math.prod(shape[2:])
    means, columns = law.rows[0].detach(), law.rows[1:].detach()
    expected = (math.sqrt(2 / ((ins + out) * window)), math.sqrt(2 / ((out + rank) * ins * window)))
    for values, deviation in zip((means, columns), expected, strict=True):
        n = values.numel()
        assert abs(values.square().mean() / deviation**2 - 1) < 5 * math.sqrt(2 / n)  # variance of a normal's square: 2
        assert abs((values.abs() < deviation).float().mean() - 0.6827) < 5 * math.sqrt(0.22 / n)  # normal, not uniform


def test_released_noise_is_a_tenth_of_the_columns_and_the_law_says_so():
    law = make("lowrank-sdp-published", rank=3).law(torch.Size([4, 6]), torch.Generator().manual_seed(0)).double()
    noise = law.noise(torch.Generator().manual_seed(1))
    expected = law.rows[0] + torch.einsum("k,kij->ij", noise / 10, law.rows[1:])
    torch.testing.assert_close(law.latent(noise), expected)
    standard = law.rows[0] / (law.rows[1:] / 10).norm(dim=0)
    torch.testing.assert_close(law.mean(), torch.erf(standard / math.sqrt(2)))


def test_released_rows_are_never_normalised_and_one_solver_moves_all():
    run = start("lowrank-sdp-published", {}, real_parts=True)
    advanced(run)
    (solver,) = run.solvers
    assert {id(p) for g in solver.param_groups for p in g["params"]} == {id(p) for p in run.model.parameters()}
    assert all(g["momentum"] == 0.9 and not g["nesterov"] and g["dampening"] == 0 for g in solver.param_groups)
    for _, law in laws(run.model):
        if law.levels is not None:
            assert ((law.rows.norm(dim=0) - 1).abs() > 0.1).any()


def test_released_rules_are_the_mode_and_forty_networks():
    assert [(r.name, r.networks) for r in make("lowrank-sdp-published").predictors] == [
        ("mode", 1),
        ("ensemble(40)", 40),
    ]
