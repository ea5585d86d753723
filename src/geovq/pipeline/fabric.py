"""Lightning Fabric for the ranks that there are: precision, and the same gradients on all of them."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any, Literal

import torch

from geovq import ranks

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def make_fabric(device: torch.device, precision: Literal["32-true", "bf16-mixed"]) -> Fabric:
    """For one device, or for as many as there are ranks (``strategy="ddp"``), whose process group is there already."""
    from lightning.fabric import Fabric

    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if ranks.count() == 1:
        return Fabric(accelerator=device.type, devices=1, precision=precision)
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.strategies import DDPStrategy
    from torch.nn.parallel import DistributedDataParallel

    class Rank(LightningEnvironment):
        """Known without environment variables, which later jobs of this process would see."""

        creates_processes_externally = True

        def local_rank(self) -> int:
            return ranks.rank()

    # What is no parameter moves by statistics of the whole batch, and so alike on all ranks: it is not sent each step.
    known = inspect.signature(DistributedDataParallel).parameters
    switch = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its name before 2.15
    settings: dict[str, Any] = {switch: False}
    strategy = DDPStrategy(cluster_environment=Rank(), **settings)
    fabric = Fabric(accelerator=device.type, devices=ranks.count(), strategy=strategy, precision=precision)
    fabric.launch()
    return fabric
