"""A decoder seen from the edges of a token graph: derivatives along them and images at their ends.

A token lives at one position of one image, its context. An edge from token ``i`` towards a latent point ``p`` puts
``p`` in the place of token ``i`` and leaves all other tokens of that image as they are. The same edge seen from its
other end lives in another image, so whoever measures an edge takes the mean of both directions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.func import jvp

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array, check_decoder, check_latents, device_of
from geovq.geometry.computing import forward_mode, images_per_pass


class DecodedEdges:
    """Speeds and chords of edges under a decoder.

    Cost: a speed is one forward-mode derivative of the decoder, a chord one decoded image per edge and one per run of
    edges with the same start. On a graph of 10 million edges, seen from both ends, that is 20 million of either: hours
    on a CPU, so this is for small sets or an accelerator.

    Args:
        decoder: maps ``(B, d, h, w)`` to images ``(B, …)``, in eval mode.
        latents: ``(N, d, h, w)`` the images that tokens live in: token ``n·h·w + row·w + col`` at ``(row, col)`` of
            image ``n``. Without them a token is a whole latent, and the decoder gets ``(B, d, 1, 1)``: a manifold, or
            images of one token.
        device: where to decode; by default where the decoder's parameters are.

    Raises:
        InputError: latents of a wrong shape or not finite.
    """

    batch_size = 256
    """Images decoded at a time, fewer where memory asks for it."""

    def __init__(
        self, decoder: nn.Module, latents: torch.Tensor | None = None, device: torch.device | str | None = None
    ) -> None:
        if latents is not None:
            check_latents(latents)
        self.decoder = decoder
        self.device = device_of(decoder) if device is None else torch.device(device)
        self._latents = None if latents is None else latents.detach().to(self.device)
        if self._latents is not None:
            self.batch_size = images_per_pass(decoder, self._latents[:1], self.batch_size, backward=False)

    def check(self, tokens: Array) -> None:
        """Raise InputError unless tokens ``(N, d)`` are those of the latents, and as ``check_decoder``."""
        points = as_array(tokens, np.float32)
        if self._latents is None:
            check_decoder(self.decoder, torch.from_numpy(points[[0, -1]])[:, :, None, None], self.device)
            return
        expected = self._latents.permute(0, 2, 3, 1).flatten(0, 2).float().cpu().numpy()
        if points.shape != expected.shape:
            raise InputError(
                f"tokens have shape {points.shape}, but latents {tuple(self._latents.shape)} hold {expected.shape}; "
                "give the latents that the tokens were taken from"
            )
        if not np.array_equal(points, expected):
            bad = int(np.flatnonzero((points != expected).any(axis=1))[0])
            raise InputError(f"token {bad} is not that of the latents; keep the order image, row, column")
        check_decoder(self.decoder, self._latents, self.device)

    def speeds(self, tokens: np.ndarray, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """``‖J(p) δ‖`` at points ``p`` in the place of tokens: the length that ``δ`` has there, to first order.

        Args:
            tokens: ``(E,)`` numbers of the tokens whose places are taken.
            points: ``(E, d)``.
            directions: ``(E, d)``.

        Returns:
            ``(E,)`` float32, root-summed over the image; in root-summed pixel error for images.

        Raises:
            InputError: derivatives that are not finite.
        """
        result = np.empty(len(tokens), dtype=np.float32)
        for part in self._batches(len(tokens)):
            z = self._images(tokens[part], points[part])
            direction = self._images(tokens[part], directions[part], around=torch.zeros_like(z))
            with forward_mode():
                derivative = jvp(self.decoder, (z,), (direction,))[1]
            result[part] = _norms(derivative)
        return _finite(result, "derivatives")

    def chords(self, tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """``‖D(b) − D(a)‖`` of points ``a`` and ``b`` in the place of tokens.

        Args:
            tokens: ``(E,)`` numbers of the tokens whose places are taken.
            starts: ``(E, d)``; runs of equal starts of one token are decoded once.
            ends: ``(E, d)``.

        Returns:
            ``(E,)`` float32, in root-summed pixel error for images.

        Raises:
            InputError: images that are not finite.
        """
        result = np.empty(len(tokens), dtype=np.float32)
        for part in self._batches(len(tokens)):
            token, start, end = tokens[part], starts[part], ends[part]
            new = np.append(True, (token[1:] != token[:-1]) | (start[1:] != start[:-1]).any(axis=1))
            with torch.no_grad():
                here = self.decoder(self._images(token[new], start[new]))
                there = self.decoder(self._images(token, end))
            run = torch.from_numpy(np.cumsum(new) - 1).to(self.device)
            result[part] = _norms(there - here[run])
        return _finite(result, "images")

    def _batches(self, n_edges: int) -> Iterator[slice]:
        for start in range(0, n_edges, self.batch_size):
            yield slice(start, start + self.batch_size)

    def _images(self, tokens: np.ndarray, points: np.ndarray, around: torch.Tensor | None = None) -> torch.Tensor:
        """``(E, d, h, w)`` the tokens' images, or ``around``, with points in the tokens' places."""
        values = torch.from_numpy(np.ascontiguousarray(points)).to(self.device)
        if self._latents is None:
            return values[:, :, None, None]
        number = torch.from_numpy(np.asarray(tokens, dtype=np.int64)).to(self.device)
        height, width = self._latents.shape[2:]
        images = self._latents[number // (height * width)] if around is None else around
        place = number % (height * width)
        images[torch.arange(len(images), device=self.device), :, place // width, place % width] = values.to(images)
        return images


def _norms(images: torch.Tensor) -> np.ndarray:
    return np.asarray(images.flatten(1).float().norm(dim=1).cpu().numpy())


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(f"the decoder's {what} along edges are not finite; check its weights and activations")
    return values
