"""Compiled loops over rows, spread over the threads that torch uses."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch


def in_threads(kernel: Callable[..., None], n_rows: int, *arguments: Any) -> None:
    """Call ``kernel(*arguments, first, last)`` on equal ranges of rows, one per thread.

    The kernel must release the interpreter's lock, and write rows ``first`` to ``last`` only: then the result does not
    depend on the number of threads.
    """
    n_threads = max(1, min(torch.get_num_threads(), n_rows))
    bounds = [int(bound) for bound in np.linspace(0, n_rows, n_threads + 1)]
    with ThreadPoolExecutor(n_threads) as pool:
        for job in [pool.submit(kernel, *arguments, first, last) for first, last in pairwise(bounds)]:
            job.result()
