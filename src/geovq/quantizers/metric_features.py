"""Costs ``(z − c)ᵀG(z − c)`` of tokens with metrics of their own, as one matrix product.

Since ``(z − c)ᵀG(z − c) = zᵀGz + ⟨G, ccᵀ⟩ − 2 cᵀGz``, what depends on the codeword is the inner product of
``[G packed, off-diagonal entries twice | Gz]``, the features of the token with ``d(d+1)/2 + d`` numbers, and
``[ccᵀ packed | −2c]``, those of the codeword. A fit computes the tokens' once and multiplies them in every pass; where
half of the working memory does not hold them, it computes them anew, block by block, which takes less time than the
product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numba import njit

from geovq.geometry.checks import Array, as_packed, check_metrics
from geovq.geometry.computing import in_threads, working_memory
from geovq.geometry.symmetric import packed_size, unpack_symmetric, unpacked_positions
from geovq.quantizers.lloyd import Distortion
from geovq.quantizers.nearest import cell_sums, is_cpu, lowest_products

# Tokens whose features are computed at a time: bounds what a change of type or of device takes.
_ROWS = 131_072
# Codewords above which most passes of a fit look at each token's nearest alone, and how many those are.
_ALL, _NEAR = 2_048, 16


class MetricFeatures(Distortion):
    """Features of tokens, and the cost ``(z − c)ᵀ(G + shift·I)(z − c)``, each token in its own metric.

    Args:
        tokens: ``(N, d)`` float32.
        metrics: ``(N, d(d+1)/2)`` packed, positive semidefinite, any floating type, on any device.
        shift: added to the diagonal of every metric, so that singular ones still tell codewords apart.
        origin: ``(d,)`` of all coordinates: near the tokens' mean, or rounding eats the small differences.
        device: where the features live and products are computed; the CPU by default.

    Raises:
        InputError: metrics that do not fit, are not finite, or have a negative diagonal entry.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        metrics: Array,
        shift: float,
        origin: np.ndarray,
        device: torch.device | str | None = None,
    ) -> None:
        self._packed = check_metrics(metrics, *tokens.shape)
        self.points, (n_tokens, self.dimension), self._shift = tokens, tokens.shape, shift
        self.origin = origin.astype(np.float32)
        self.device = torch.device("cpu" if device is None else device)
        self._width = packed_size(self.dimension) + self.dimension
        self._held: tuple[torch.Tensor, torch.Tensor] | None = None
        self._near: np.ndarray | None = None
        if not is_cpu(device) or n_tokens <= max(_ROWS, working_memory() / 2 / (4 * self._width)):
            self._held = rows, constants = self._empty(n_tokens)
            for start in range(0, n_tokens, _ROWS):
                part = slice(start, start + _ROWS)
                self._fill(part, rows[part], constants[part])

    @property
    def rows(self) -> torch.Tensor:
        """``(N, d(d+1)/2 + d)`` float32 features that are held."""
        assert self._held is not None
        return self._held[0]

    def blocks(self, size: int | None = None) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Tokens, their ``(n, d(d+1)/2 + d)`` float32 features and ``(n,)`` ``zᵀGz``, ``size`` of them at a time.

        All at once by default where the working memory holds them; where not, each block takes the place of the last.
        """
        n_tokens = len(self.points)
        step = min(size or n_tokens, n_tokens if self._held else _ROWS)
        buffers = self._held or self._empty(step)
        for start in range(0, n_tokens, step):
            part = slice(start, min(start + step, n_tokens))
            place = part if self._held else slice(0, part.stop - start)
            rows, constants = (buffer[place] for buffer in buffers)
            if not self._held:
                self._fill(part, rows, constants)
            yield part, rows, constants

    def _empty(self, n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.empty(n_tokens, self._width, device=self.device), torch.empty(n_tokens, device=self.device)

    def _fill(self, part: slice, rows: torch.Tensor, constants: torch.Tensor) -> None:
        """Write features and constants of some tokens."""
        z = torch.from_numpy(self.points[part] - self.origin).to(self.device)
        half = self._packed[part].to(self.device, torch.float32)
        if not (_fill if is_cpu(self.device) else _fill_on_device)(half, z, self._shift, rows, constants):
            as_packed(self._packed, len(self.points), self.dimension)  # says which metric is none, and why

    def nearest(self, codewords: np.ndarray) -> np.ndarray:
        """Cheapest code of every token ``(N,)`` int64."""
        weights, codes = self._weights(codewords), np.empty(len(self.points), np.int64)
        for part, rows, _ in self.blocks():
            codes[part] = lowest_products(rows, weights)[:, 0]
        return codes

    def assign(self, codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cheapest codes, and their costs with all their digits."""
        weights = self._weights(codebook)
        codes, costs = np.empty(len(self.points), np.int64), np.empty(len(self.points), np.float32)
        few = len(codebook) > _ALL and is_cpu(self.device)
        self._near = np.empty((len(self.points), _NEAR), np.int32) if few else None
        for part, rows, _ in self.blocks():
            found = lowest_products(rows, weights, _NEAR if few else 1)
            codes[part] = found[:, 0]
            if self._near is not None:
                self._near[part] = found
            costs[part] = self._costs_of(rows, self.points[part] - codebook[codes[part]])
        return codes, costs

    def reassign(self, codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Of more than 2,048 codewords the 16 that cost each token least in the last ``assign``.

        On a GPU all are looked at every time.
        """
        if self._near is None:
            return None
        weights, codes = self._weights(codebook).numpy(), np.empty(len(self.points), np.int64)
        costs = np.empty(len(self.points), np.float32)
        for part, rows, _ in self.blocks():
            in_threads(_lowest_of_few, len(rows), rows.numpy(), weights, self._near[part], codes[part])
            costs[part] = self._costs_of(rows, self.points[part] - codebook[codes[part]])
        return codes, costs

    def best(self, codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Barycentres; a codeword stays where its cell is empty or would not profit (by rounding)."""
        matrices, vectors = self.cell_sums(codes, len(codebook))
        known = np.bincount(codes, minlength=len(codebook)) > 0
        moved = codebook.copy()
        moved[known] = barycentres(matrices[known], vectors[known], self.origin)

        def costs(codewords: np.ndarray) -> np.ndarray:
            c = codewords.astype(np.float64) - self.origin
            return np.asarray(np.einsum("ki,kij,kj->k", c, matrices, c) - 2 * (c * vectors).sum(axis=1))

        return np.where((costs(moved) < costs(codebook))[:, None], moved, codebook)

    def costs(self, codewords: np.ndarray) -> np.ndarray:
        """``(K, N)`` float32: what each token costs with each codeword; for few of them."""
        weights = self._weights(codewords)
        parts = [(weights @ rows.T).add_(constants).clamp_(min=0).cpu() for _, rows, constants in self.blocks()]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).numpy()

    def costs_of(self, errors: np.ndarray) -> np.ndarray:
        """``(N,)`` float32 ``eᵀ(G + shift·I)e`` of one vector ``(N, d)`` per token.

        From a token to its codeword these are the costs of ``costs``, with all their digits where tokens lie much
        farther apart than from their codewords.
        """
        costs = np.empty(len(self.points), np.float32)
        for part, rows, _ in self.blocks():
            costs[part] = self._costs_of(rows, errors[part])
        return costs

    def _costs_of(self, rows: torch.Tensor, errors: np.ndarray) -> np.ndarray:
        costs = torch.empty(len(rows))
        if is_cpu(rows.device):
            in_threads(_quadratic_rows, len(errors), rows.numpy(), errors, costs.numpy())
            return costs.numpy()
        i, j = (torch.from_numpy(each).to(rows.device) for each in np.triu_indices(self.dimension))
        for start in range(0, len(errors), _ROWS):
            part = slice(start, start + _ROWS)
            e = torch.from_numpy(errors[part]).to(rows.device)
            costs[part] = (rows[part, : len(i)] * e[:, i] * e[:, j]).sum(dim=1).cpu()
        return costs.clamp_(min=0).numpy()

    def cell_sums(self, codes: np.ndarray, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
        """Per code ``ΣG`` as ``(K, d, d)`` and ``ΣGz`` as ``(K, d)``, float64, around ``origin``."""
        sums = self.packed_sums(codes, n_codes)
        size = packed_size(self.dimension)
        return unpack_twice(sums[:, :size].copy(), self.dimension), sums[:, size:]

    def packed_sums(self, codes: np.ndarray, n_codes: int) -> np.ndarray:
        """``(K, d(d+1)/2 + d)`` float64 sums of the features of each code's tokens."""
        sums = np.zeros((n_codes, self._width))
        for part, rows, _ in self.blocks():
            cell_sums(rows, codes[part], n_codes, sums)
        return sums

    def _weights(self, codewords: np.ndarray) -> torch.Tensor:
        """``(K, d(d+1)/2 + d)`` features of codewords."""
        return codeword_features(codewords.astype(np.float64) - self.origin).to(self.device)


def codeword_features(codewords: np.ndarray) -> torch.Tensor:
    """``(K, d(d+1)/2 + d)`` float32 ``[ccᵀ packed | −2c]`` of codewords ``(K, d)`` around the origin of the tokens."""
    i, j = np.triu_indices(codewords.shape[1])
    products = codewords[:, i] * codewords[:, j]
    return torch.from_numpy(np.concatenate((products, -2 * codewords), axis=1).astype(np.float32))


def unpack_twice(packed: np.ndarray, d: int) -> np.ndarray:
    """Matrices ``(…, d, d)`` from halves ``(…, d(d+1)/2)`` whose off-diagonal entries stand twice."""
    full: np.ndarray = unpack_symmetric(torch.from_numpy(packed), d).numpy()
    full *= np.where(np.eye(d, dtype=bool), 1.0, 0.5)
    return full


def barycentres(matrices: np.ndarray, vectors: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """``(ΣG)⁻¹ΣGz`` of every cell, ``(K, d)`` float32; every ``ΣG`` ``(K, d, d)`` must be invertible."""
    return np.asarray((np.linalg.solve(matrices, vectors[..., None])[..., 0] + origin).astype(np.float32))


def _fill(packed: torch.Tensor, z: torch.Tensor, shift: float, rows: torch.Tensor, constants: torch.Tensor) -> bool:
    """Write the features and constants of tokens ``z``; whether all metrics are finite with no negative diagonal."""
    sound = np.empty(len(z), np.bool_)
    arrays = (packed.contiguous().numpy(), z.numpy(), rows.numpy(), constants.numpy())
    in_threads(_fill_rows, len(z), *arrays, np.float32(shift), sound)
    return bool(sound.all())


@njit(cache=True, nogil=True)
def _fill_rows(packed, z, rows, constants, shift, sound, first, last):  # type: ignore[no-untyped-def]
    d, size = z.shape[1], packed.shape[1]
    for token in range(first, last):
        fine = True
        applied = rows[token, size:]
        for i in range(d):
            applied[i] = shift * z[token, i]
        place = 0
        nothing = np.float32(0.0)  # stays 0 while all entries are finite
        for i in range(d):
            entry = packed[token, place]
            fine &= entry >= 0.0
            nothing += entry * np.float32(0.0)
            rows[token, place] = entry + shift
            applied[i] += entry * z[token, i]
            place += 1
            for j in range(i + 1, d):
                entry = packed[token, place]
                nothing += entry * np.float32(0.0)
                rows[token, place] = np.float32(2.0) * entry
                applied[i] += entry * z[token, j]
                applied[j] += entry * z[token, i]
                place += 1
        sound[token] = fine and nothing == 0.0
        constant = np.float32(0.0)
        for i in range(d):
            constant += applied[i] * z[token, i]
        constants[token] = constant


@njit(cache=True, nogil=True)
def _quadratic_rows(rows, errors, costs, first, last):  # type: ignore[no-untyped-def]
    """``eᵀGe`` from features, whose off-diagonal entries stand twice."""
    d = errors.shape[1]
    for token in range(first, last):
        total, place = 0.0, 0
        for i in range(d):
            pushed = 0.0
            for j in range(i, d):
                pushed += np.float64(rows[token, place]) * errors[token, j]
                place += 1
            total += pushed * errors[token, i]
        costs[token] = max(total, 0.0)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _lowest_of_few(rows, weights, near, codes, first, last):  # type: ignore[no-untyped-def]
    for token in range(first, last):
        lowest = np.float32(np.inf)
        codes[token] = near[token, 0]
        for place in range(near.shape[1]):
            code = near[token, place]
            product = np.float32(0.0)
            for column in range(rows.shape[1]):
                product += rows[token, column] * weights[code, column]
            if product < lowest:
                lowest, codes[token] = product, code


def _fill_on_device(
    packed: torch.Tensor, z: torch.Tensor, shift: float, rows: torch.Tensor, constants: torch.Tensor
) -> bool:
    """``_fill`` in torch, for devices that numba does not compile for."""
    d, size = z.shape[1], packed.shape[1]
    position = torch.from_numpy(unpacked_positions(d)).to(z.device)
    diagonal = position[:: d + 1]
    if not bool(torch.isfinite(packed).all()) or bool((packed[:, diagonal] < 0).any()):
        return False
    full = packed.index_select(1, position).view(-1, d, d)
    applied = torch.einsum("nij,nj->ni", full, z).add_(z, alpha=shift)
    twice = torch.full((size,), 2.0, device=z.device)
    twice[diagonal] = 1.0
    torch.mul(packed, twice, out=rows[:, :size])
    rows[:, diagonal] += shift
    rows[:, size:] = applied
    constants.copy_((applied * z).sum(dim=1))
    return True
