"""The processes that train together: one by default, several under torchrun, or `accelerate launch` with GPUs.

    torchrun --nproc-per-node 2 -m frspec_cli train-draft ANSWERS ...

(`accelerate launch` starts a single process on a CPU.) Every rank holds the same weights and takes its share of a step's
micro-batches. What the ranks add up is gradients, so a step does not depend on which rank computed which batch, except
for the rounding of sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch

from frspec_cli.errors import FrspecError


class Ranks:
    """index of count ranks. `main`, rank 0, does all that is done once: writing, validating, reporting."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.count, self.index = int(os.environ.get("WORLD_SIZE", "1")), 0
        self._accelerator: Any = None
        self._parent = os.getppid()
        if self.count > 1:
            from accelerate import Accelerator, InitProcessGroupKwargs

            patient = InitProcessGroupKwargs(timeout=timedelta(hours=12))  # the others wait while rank 0 validates
            self._accelerator = Accelerator(cpu=torch.device(device).type == "cpu", kwargs_handlers=[patient])
            self.index = self._accelerator.process_index

    @property
    def main(self) -> bool:
        """Whether this is rank 0."""
        return self.index == 0

    @property
    def orphaned(self) -> bool:
        """Whether the process that launched several ranks was killed: then nothing would end them."""
        return self.count > 1 and os.getppid() != self._parent

    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Makes each tensor (equal shapes and dtypes on all ranks) the sum over ranks, in place, in one exchange."""
        if self._accelerator is None:
            return
        parts = list(tensors)
        summed = self._accelerator.reduce(torch.cat([part.flatten().float() for part in parts]), reduction="sum")
        for part, total in zip(parts, summed.split([part.numel() for part in parts]), strict=True):
            part.copy_(total.view_as(part))

    def share(self, tensors: Iterable[torch.Tensor]) -> None:
        """Makes each tensor equal to rank 0's, in place."""
        if self._accelerator is None:
            return
        from accelerate.utils import broadcast

        for tensor in tensors:
            tensor.copy_(broadcast(tensor.contiguous(), from_process=0))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank."""
        if self._accelerator is None:
            return flag
        return bool(self._accelerator.reduce(torch.tensor(float(flag), device=self._accelerator.device)) > 0)

    def wait(self) -> None:
        """Returns when all ranks have called it."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def rank_device(device: str | None) -> str | None:
    """The device of this process: each of several has a GPU of its own, unless `device` names one.

    Raises `FrspecError` if there are fewer GPUs than processes on this machine.
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or device not in (None, "cuda") or not torch.cuda.is_available():
        return device
    if int(rank) >= torch.cuda.device_count():
        raise FrspecError(
            f"process {rank} has no GPU: this machine has {torch.cuda.device_count()}.",
            hint="Start one process per GPU: torchrun --nproc-per-node N -m frspec_cli train-draft ...",
        )
    return f"cuda:{rank}"
