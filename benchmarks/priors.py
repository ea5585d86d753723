"""Images per second of the priors on a 7x7 grid, medians, beside transformers' own ``generate``; untrained networks.

python benchmarks/priors.py [images] [repetitions]
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable

import torch

from geovq.models.autoregressive_prior import AutoregressivePrior
from geovq.models.code_layout import CodeLayout
from geovq.models.masked_prior import MaskedPrior
from geovq.models.pixelcnn_prior import PixelCNNPrior


def main() -> None:
    """One thread; every case once before it is timed."""
    n, repetitions = (int(word) for word in [*sys.argv[1:], *("500", "5")[len(sys.argv) - 1 :]])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layout = CodeLayout(512, (7, 7), 10)
    gpt = AutoregressivePrior(layout, 3, 128, 4, 0.0).eval()
    masked = MaskedPrior(layout, 3, 128, 4, 0.0).eval()
    pixelcnn = PixelCNNPrior(layout, 3, 128, 0.0).eval()
    start = layout.start_ids(torch.arange(n) % 10, n)

    def generate() -> None:
        with torch.no_grad():
            gpt.transformer.generate(
                start[:, None],
                attention_mask=torch.ones(n, 1, dtype=torch.long),
                max_new_tokens=layout.length,
                logits_processor=[lambda ids, logits: logits.masked_fill(~gpt.allowed[ids.shape[1] - 1], -math.inf)],
                eos_token_id=None,
                pad_token_id=layout.pad,
                do_sample=True,
                top_k=0,
            )

    cases: dict[str, Callable[[], object]] = {
        "autoregressive, generate of transformers": generate,
        "autoregressive": lambda: gpt.sample(start, batch_size=n),
        "autoregressive, guidance 2": lambda: gpt.sample(start, batch_size=n, guidance=2.0),
        "masked, 8 steps": lambda: masked.sample(start, batch_size=n),
        "masked, 8 steps, guidance 2": lambda: masked.sample(start, batch_size=n, guidance=2.0),
        "pixelcnn": lambda: pixelcnn.sample(start, batch_size=n),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repetition in range(repetitions + 1):
        for name, case in cases.items():  # one of each in turn: a busy machine is busy for all
            begun = time.perf_counter()
            case()
            if repetition:
                seconds[name].append(time.perf_counter() - begun)
    base = statistics.median(seconds["autoregressive"])
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(f"{name:42s} {n / middle:8.0f} images/s  {base / middle:6.2f} of autoregressive")


if __name__ == "__main__":
    main()
