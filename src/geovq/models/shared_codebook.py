"""The library's codebooks on several ranks: they count, start and restart as one rank would with the whole batch.

The library has this too (``sync_codebook``), but then other tokens are drawn to start and restart with than on one
rank, and more dead codes than tokens are put on the same ones. Importing this imports the library.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

from geovq import ranks


class SharedCodebook(Codebook):
    """A codebook that looks at the tokens (1, N, d) of all ranks where it draws some of them."""

    def init_embed_(self, data: Tensor, mask: Tensor | None = None) -> None:
        """Start the codewords by k-means on the whole batch, once."""
        super().init_embed_(data if self.initted else ranks.whole(data, 1), mask)

    def expire_codes_(self, batch_samples: Tensor, seq_mask: Tensor | None = None) -> None:
        """Put dead codes on tokens of the whole batch."""
        if bool(torch.any(self.cluster_size < self.threshold_ema_dead_code)):
            batch_samples = ranks.whole(batch_samples, 1)
        super().expire_codes_(batch_samples, seq_mask)


def shared(quantizer: Any) -> Any:
    """A ``VectorQuantize`` whose codebook does so."""
    codebook = quantizer._codebook
    codebook.__class__ = SharedCodebook
    codebook.all_reduce_fn = ranks.total_
    return quantizer
