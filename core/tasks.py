"""Which task of a sequence a network's per-task batch norms serve: set by whoever knows the task, never guessed.

Each task normalises, records and evaluates with its own statistics; weights, gain and bias are shared.
"""

from __future__ import annotations

import torch
from torch import nn

from core.layers import BatchNorm


def keep_tasks(network: nn.Module, tasks: int) -> None:
    """Give every per-task batch norm fresh running averages of `tasks` tasks, the first of them current.

    Raises ValueError for a network without such norms or for fewer than one task.
    """
    if tasks < 1:
        raise ValueError(f"a sequence needs at least one task (got {tasks})")
    for norm in _norms(network):
        like = norm.running_mean[:1]
        norm.running_mean = torch.zeros_like(like).repeat(tasks, 1)
        norm.running_var = torch.ones_like(like).repeat(tasks, 1)
        norm.task = 0


def enter_task(network: nn.Module, task: int) -> None:
    """From now on passes of `network` are of task `task`, counted from 0. Not part of a state_dict: enter it again.

    Raises ValueError for a network without per-task norms or for a task that was not announced.
    """
    norms = _norms(network)
    kept = len(norms[0].running_mean)
    if not 0 <= task < kept:
        raise ValueError(f"task {task} is not among the {kept} kept (0 to {kept - 1}); call keep_tasks first")
    for norm in norms:
        norm.task = task


def _norms(network: nn.Module) -> list[BatchNorm]:
    norms = [m for m in network.modules() if isinstance(m, BatchNorm) and m.role == "per-task"]
    if not norms:
        raise ValueError('no batch norm of this network has the role "per-task"; build it with that role')
    return norms
