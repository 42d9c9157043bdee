"""Data-parallel training on one machine's CPU cores: one single-threaded process per core.

Two threads inside one small model wait for each other at every operation, which on a busy machine
costs more than the second core gives. Processes meet once a step, to average their gradients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True, slots=True)
class Worker:
    """One process among `count`; rank 0 prints and saves."""

    rank: int
    count: int

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The part of a batch that is this worker's."""
        if batch % self.count:
            raise ValueError(f"a batch of {batch} cannot be shared by {self.count} workers")
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient with its mean over the workers."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        offset = 0
        for gradient in gradients:
            gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
            offset += gradient.numel()

    def wait(self) -> None:
        """Until every worker has come here."""
        if self.count > 1:
            dist.barrier()


def run(task: Callable[[Worker], None], count: int) -> None:
    """Call `task` once in each of `count` processes (in this one if `count` is 1).

    `task` must be picklable: a module's function, or a partial of one.
    """
    if count == 1:
        task(Worker(0, 1))
        return
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "rendezvous").as_uri()
        spawn(_enter, args=(task, count, store), nprocs=count, join=True)


def _enter(rank: int, task: Callable[[Worker], None], count: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    try:
        task(Worker(rank, count))
    finally:
        dist.destroy_process_group()
