"""The processes that train one network together, as torchrun or accelerate starts them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from posewarp.runtime.errors import BackendError, ContractError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """This process among those that train one network together; by default it is alone.

    Every process holds the same weights and a share of every batch. Gradients are averaged; so are the statistics of
    batch norm, each process having normalised by its own share. Spectral norm's vectors follow from the weights and
    are the same everywhere.

    Attributes:
        index: from 0; process 0 alone writes files and prints.
        count: how many there are.
        device: this one's own.
    """

    index: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and prints."""
        return self.index == 0

    def share(self, batch_size: int) -> int:
        """Pairs of a batch that fall to each process.

        Raises: ContractError if they cannot be shared evenly, or are too few for batch norm.
        """
        share, rest = divmod(batch_size, self.count)
        if rest or share < 2:
            raise ContractError(
                f"batch_size is {batch_size} for {self.count} processes together, expected a multiple of "
                f"{self.count}, at least {2 * self.count}, better {8 * self.count}: batch norm needs statistics"
            )
        return share

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes in each backward pass; itself if alone."""
        if self.count == 1:
            return module
        devices = None if self.device.type == "cpu" else [self.device]
        with warnings.catch_warnings():
            # torch 2.13 has a new name for broadcast_buffers, which older ones do not know.
            warnings.simplefilter("ignore", FutureWarning)
            # ``average_`` sees to buffers; DDP would spread those of process 0 instead.
            return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)

    def average(self, value: Tensor) -> Tensor:
        """The mean over the processes, the same bits on each."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        return reduce(value, "mean")

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace fp32 tensors by their means, in one message."""
        if self.count == 1:
            return
        means = self.average(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, mean in zip(tensors, means.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            torch.distributed.barrier()


def join(device: torch.device | str = "cpu") -> Processes:
    """This process among those that the launcher started beside it, connected; asked again, the same.

    Args:
        device: "cpu", or "cuda", of which each process of a machine takes its own GPU.

    Raises: BackendError if there is no such device for it, or accelerate is not installed.
    """
    try:
        device = torch.device(device)
    except RuntimeError as exc:
        raise BackendError(f"--device {device} is not one that torch knows; use cpu or cuda") from exc
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"--device {device} was asked for, but torch sees no GPU here; use --device cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device=device)
    here = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda" and here >= torch.cuda.device_count():
        raise BackendError(
            f"process {here} of this machine has no GPU of its own: torch sees {torch.cuda.device_count()}; "
            "start as many processes"
        )
    try:
        from accelerate import PartialState
    except ImportError as exc:
        raise BackendError(
            'several processes need accelerate, which is not installed: pip install "posewarp[train]"'
        ) from exc
    state = PartialState(cpu=device.type == "cpu")
    # accelerate numbers the processes' CPUs, torch.load knows only "cpu".
    return Processes(state.process_index, state.num_processes, state.device if device.type == "cuda" else CPU)


def leave() -> None:
    """End what ``join`` began, if it did."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
