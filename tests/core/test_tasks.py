"""Per-task batch norm: each task has its own statistics, weights and gain are shared, nobody guesses the task."""

from __future__ import annotations

import pytest
import torch

from core.architectures import InputForm, build
from core.interface import Reading
from core.laws import Point, initial_uniform
from core.layers import BatchNorm, Network
from core.ops import StraightThrough
from core.readings import SignActivation, mode_weights
from core.seeds import generator
from core.statistics import Estimation, Evaluation, Statistics, Training
from core.tasks import enter_task, keep_tasks


def network(role: str = "per-task") -> Network:
    rng = generator("tasks")
    return build("mlp", InputForm(6), 3, lambda s, r: Point(initial_uniform(s, r)), rng, role, widths=(5,), affine=True)


def of_task(task: int) -> torch.Tensor:
    return torch.randn(50, 6, generator=generator("task", task)) * (1 + task) + 3 * task


def run(model: Network, phase, x: torch.Tensor) -> torch.Tensor:
    return model(x, Reading(mode_weights(model), SignActivation(StraightThrough()), phase), generator("unused"))


def norms(model: Network) -> list[BatchNorm]:
    return [m for m in model.modules() if isinstance(m, BatchNorm)]


def test_running_averages_of_a_task_are_those_of_a_network_that_saw_that_task_alone():
    model = network()
    keep_tasks(model, 3)
    for task in (2, 0, 2):
        enter_task(model, task)
        run(model, Training(), of_task(task))
    for task, passes in ((0, 1), (1, 0), (2, 2)):
        alone = network("batch")
        for _ in range(passes):
            run(alone, Training(), of_task(task))
        for norm, other in zip(norms(model), norms(alone), strict=True):
            assert norm.running_mean.shape == (3, len(other.running_mean))
            assert torch.equal(norm.running_mean[task], other.running_mean)
            assert torch.equal(norm.running_var[task], other.running_var)


def test_statistics_of_tasks_lie_side_by_side_and_each_evaluates_with_its_own():
    model, statistics = network(), Statistics()
    keep_tasks(model, 2)
    for task in (0, 1):
        enter_task(model, task)
        run(model, Estimation(statistics), of_task(task))
    assert sorted(statistics.layers) == ["layers.1.task0", "layers.1.task1", "layers.5.task0", "layers.5.task1"]
    restored = Statistics.from_state(statistics.state())
    for task in (0, 1):
        alone, own = network("batch"), Statistics()
        run(alone, Estimation(own), of_task(task))
        enter_task(model, task)
        want = run(alone, Evaluation(own), of_task(1))
        assert torch.equal(run(model, Evaluation(restored), of_task(1)), want)


def test_gain_and_bias_are_shared_and_the_averages_are_saved():
    model = network()
    keep_tasks(model, 2)
    assert [n for n, _ in model.named_parameters() if "layers.1" in n] == ["layers.1.weight", "layers.1.bias"]
    enter_task(model, 1)
    run(model, Training(), of_task(1))
    other = network()
    keep_tasks(other, 2)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a.running_mean, b.running_mean) for a, b in zip(norms(model), norms(other), strict=True))


def test_one_task_is_ordinary_batch_norm():
    one, plain = network(), network("batch")
    assert torch.equal(run(one, Training(), of_task(0)), run(plain, Training(), of_task(0)))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: enter_task(network(), 1), r"task 1 is not among the 1 kept \(0 to 0\); call keep_tasks first"),
        (lambda: enter_task(network(), -1), r"task -1 is not among"),
        (lambda: keep_tasks(network(), 0), r"at least one task \(got 0\)"),
        (lambda: enter_task(network("batch"), 0), 'no batch norm of this network has the role "per-task"'),
        (lambda: keep_tasks(network("stochastic"), 2), 'no batch norm of this network has the role "per-task"'),
    ],
)
def test_a_task_that_is_not_there_is_refused(use, message):
    with pytest.raises(ValueError, match=message):
        use()
