"""Which device a run computes on, in which precision, and with how many threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import torch

from geovq.errors import ConfigError
from geovq.geometry.computing import has_bf16_hardware

if TYPE_CHECKING:
    from geovq.configuration.sections import Trainer
    from geovq.geometry.computing import Precision


def choose_device(trainer: Trainer) -> torch.device:
    """The device asked for, or CUDA where there is one. Raises ConfigError: when CUDA is asked for and missing.

    Or when there are fewer CUDA devices than processes that want one each, or torchrun has started several of them.
    """
    if "LOCAL_RANK" in os.environ and (started := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError(
            f"WORLD_SIZE={started}: started by torchrun, {started} times over; start python src/train.py once, and "
            f"trainer.devices={started} starts the others"
        )
    available = torch.cuda.is_available()
    if trainer.device == "cuda" and not available:
        raise ConfigError("trainer.device=cuda: this machine shows no CUDA device; take trainer.device=cpu or auto")
    device = torch.device("cuda" if available and trainer.device != "cpu" else "cpu")
    if device.type == "cuda" and trainer.devices > (there := torch.cuda.device_count()):
        raise ConfigError(
            f"trainer.devices={trainer.devices}: this machine shows {there} CUDA device{'s' * (there > 1)}, and each "
            f"process needs its own; take trainer.devices={there}, or trainer.device=cpu"
        )
    return device


def set_threads(trainer: Trainer) -> None:
    """Have this process compute with ``trainer.threads`` CPU threads, where that is set.

    Our own compiled loops follow torch's number; faiss brings an OpenMP of its own.
    """
    if trainer.threads is not None:
        import faiss

        torch.set_num_threads(trainer.threads)
        faiss.omp_set_num_threads(trainer.threads)


def forbid_tf32() -> None:
    """Have GPUs convolve float32 with all its digits: cuDNN would keep ten bits of them, matrix products do not.

    What is trained in bf16 gains nothing from it, and what is measured would differ from the CPU in the third digit.
    """
    torch.backends.cudnn.allow_tf32 = False


def choose_precision(trainer: Trainer, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """The precision of training asked for, or bf16 where the hardware multiplies in it: recent GPUs and CPUs.

    Weights, losses and reported errors stay in fp32. On two AVX512-BF16 cores a step takes about half the time.
    """
    if trainer.precision != "auto":
        return trainer.precision
    return "bf16-mixed" if has_bf16_hardware(device) else "32-true"


def measuring_precision(trainer: Trainer) -> Precision:
    """The precision in which sketches and searches differentiate the decoder: as training."""
    names: dict[str, Precision] = {"auto": "auto", "32-true": "32", "bf16-mixed": "bf16"}
    return names[trainer.precision]
