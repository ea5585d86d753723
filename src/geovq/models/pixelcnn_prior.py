"""Gated PixelCNN over grids of codes (van den Oord et al. 2016, Conditional PixelCNN)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.configuration.fields import Count, Positive, ShareBelowOne
from geovq.models.code_geometry import CodeEmbedding, CodeHead, Embedding, Target
from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec
from geovq.models.drawing import Drawing
from geovq.models.prior import OrderedPrior


class PixelCNNPrior(OrderedPrior):
    """p(codes | start) by a gated PixelCNN for each grid.

    A position is predicted from those before it, row by row; the slots of a token one after another, each from the
    features of the position and the slots before it; a finer grid also from the whole coarser ones.

    Args:
        layers: gated layers of a grid.
        width: channels.
        dropout: of the features that codes are predicted from.
        kernel: side of the convolutions, of which half is masked.
    """

    needs_grid: ClassVar[bool] = True

    def __init__(
        self,
        layout: CodeLayout,
        layers: Count,
        width: Count,
        dropout: ShareBelowOne,
        codec: Codec | None = None,
        kernel: Literal[3, 5, 7] = 5,
        embedding: Embedding = "learned",
        targets: Target = "one_hot",
        smoothing: Positive = 0.5,
    ) -> None:
        super().__init__(layout, codec, embedding, targets, smoothing)
        self.embedding = CodeEmbedding(layout, width, self.geometry if embedding == "codewords" else None)
        self.start = nn.Embedding(layout.vocabulary - layout.n_codes, width)
        self.networks = nn.ModuleList(
            GatedPixelCNN(layers, width, kernel, level > 0) for level in range(len(layout.grids))
        )
        self.hidden = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU())
        self.head = CodeHead(layout, width)
        self._first = [0]
        for height, columns, slots in layout.grids:
            self._first.append(self._first[-1] + height * columns * slots)

    def logits(self, ids: Tensor) -> Tensor:
        """Scores (B, S - 1, V) of what may follow each beginning of ids (B, S): -inf of what may not."""
        start, codes = ids[:, 0], ids[:, 1:]
        parts = []
        for level, (height, columns, slots) in enumerate(self.layout.grids):
            embedded = self._embedded(codes, level, height)
            above = self._rows_above(start, codes, level, embedded)
            features = self.networks[level](self._image(embedded), above).permute(0, 2, 3, 1)
            parts.append(self._slot_features(features, embedded, slots).reshape(len(ids), height * columns * slots, -1))
        positions = torch.arange(self.layout.length, device=ids.device)
        logits = self.head(self.hidden(torch.cat(parts, dim=1)), positions)
        return F.pad(logits, (0, self.layout.vocabulary - self.layout.n_codes), value=-torch.inf)

    def _embedded(self, codes: Tensor, level: int, rows: int) -> Tensor:
        """Vectors (B, rows, w, M, width) of the leading rows of a grid."""
        _, columns, slots = self.layout.grids[level]
        first = self._first[level]
        here = slice(first, first + rows * columns * slots)
        return self.embedding(codes[:, here], here).reshape(len(codes), rows, columns, slots, -1)

    def _rows_above(self, start: Tensor, codes: Tensor, level: int, embedded: Tensor) -> list[Tensor]:
        """What the class, the rows above and coarser grids tell of the leading rows of a grid, for each layer."""
        height, columns, _ = self.layout.grids[level]
        coarse = None
        if level:
            upsampled = [
                F.interpolate(self._image(self._embedded(codes, each, self.layout.grids[each][0])), (height, columns))
                for each in range(level)
            ]
            coarse = torch.stack(upsampled).sum(0)[:, :, : embedded.shape[1]]
        found: list[Tensor] = self.networks[level].rows_above(  # type: ignore[operator]
            self._image(embedded), self.start(start - self.layout.bos), coarse
        )
        return found

    @staticmethod
    def _image(embedded: Tensor) -> Tensor:
        """Vectors (B, h, w, M, width) to channels (B, width, h, w), those of a token added."""
        return embedded.sum(3).permute(0, 3, 1, 2)

    @staticmethod
    def _slot_features(features: Tensor, embedded: Tensor, slots: int) -> Tensor:
        """Features (…, M, width) of the slots of positions (…, width): those before in the token are added."""
        before = F.pad(embedded.cumsum(-2), (0, 0, 1, 0))[..., :slots, :]
        return features[..., None, :] + before

    def _draw(self, start: Tensor, codes: Tensor, given: Tensor, drawing: Drawing) -> Tensor:
        """Position after position; of the network only the horizontal stack in one row, that of the rows above once."""
        codes, starts = codes.clone(), drawing.starts(start, self.layout.bos)
        for level, (height, columns, slots) in enumerate(self.layout.grids):
            above: list[Tensor] = []
            for place in range(height * columns):
                row, column = divmod(place, columns)
                embedded = self._embedded(drawing.for_both(codes), level, row + 1)
                if column == 0:
                    given_above = self._rows_above(starts, drawing.for_both(codes), level, embedded)
                    above = [each[:, :, row:] for each in given_above]
                first = self._first[level] + place * slots
                if bool(given[:, first : first + slots].all()):
                    continue
                features = self.networks[level](self._image(embedded[:, row:]), above)[:, :, 0, column]
                for slot in range(slots):
                    at = torch.tensor([first + slot], device=codes.device)
                    logits = drawing.guided(self.head(self.hidden(features)[:, None], at)[:, 0])
                    chosen = drawing.draw(logits)
                    codes[:, first + slot] = torch.where(given[:, first + slot], codes[:, first + slot], chosen)
                    features = features + self.embedding(drawing.for_both(codes[:, at]), at)[:, 0]
        return codes


class GatedPixelCNN(nn.Module):
    """Features of each position of a grid, from the positions before it row by row.

    A vertical stack sees the rows above, a horizontal one those to the left and, through the vertical stack, the rows
    above: no blind spot. A masked convolution is one with the kernel's allowed half alone, its input padded on that
    side; in the first layer the input is moved by one, so that a position does not see itself.

    Args:
        layers: gated layers.
        width: channels.
        kernel: side of the whole kernel.
        has_coarse: whether a picture of coarser codes is given.
    """

    def __init__(self, layers: int, width: int, kernel: int, has_coarse: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GatedLayer(width, kernel, layer == 0, has_coarse) for layer in range(layers))

    def rows_above(self, image: Tensor, class_vector: Tensor, coarse: Tensor | None) -> list[Tensor]:
        """What the horizontal stack is given in each layer, (B, 2 width, h, w), of the rows above.

        Args:
            image: embedded codes (B, width, h, w).
            class_vector: (B, width).
            coarse: coarser codes (B, width, h, w).
        """
        vertical, given = image, []
        for layer in self.layers:
            assert isinstance(layer, GatedLayer)
            vertical, passed = layer.pass_down(vertical, class_vector, coarse)
            given.append(passed)
        return given

    def forward(self, image: Tensor, given: list[Tensor]) -> Tensor:
        """Features (B, width, h, w) of embedded codes (B, width, h, w) in some rows, given what those above tell."""
        horizontal = image
        for layer, passed in zip(self.layers, given, strict=True):
            horizontal = layer(horizontal, passed)
        return horizontal


class GatedLayer(nn.Module):
    """One layer of both stacks: y = tanh(a) ⊙ σ(b), a and b convolutions plus linear maps of class and coarser codes.

    Args:
        width: channels.
        kernel: side of the whole kernel.
        is_first: a position does not see itself, and there is no residual connection to it.
        has_coarse: whether a picture of coarser codes is given.
    """

    def __init__(self, width: int, kernel: int, is_first: bool, has_coarse: bool) -> None:
        super().__init__()
        self.reach, self.is_first = (kernel + 1) // 2, is_first
        self.vertical = nn.Conv2d(width, 2 * width, (self.reach, kernel))
        self.horizontal = nn.Conv2d(width, 2 * width, (1, self.reach))
        self.down = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        self.of_class = nn.Linear(width, 4 * width)
        self.of_coarse = nn.Conv2d(width, 4 * width, 1) if has_coarse else None

    def pass_down(self, vertical: Tensor, class_vector: Tensor, coarse: Tensor | None) -> tuple[Tensor, Tensor]:
        """The vertical stack (B, width, h, w) in the next layer, and what it gives the other (B, 2 width, h, w)."""
        side, before = self.reach - 1, self.reach - 1 + self.is_first
        seen = self.vertical(F.pad(vertical, (side, side, before, 0)))[:, :, : vertical.shape[2]]
        given = self.of_class(class_vector)[:, :, None, None]
        if self.of_coarse is not None and coarse is not None:
            given = given + self.of_coarse(coarse)
        for_vertical, for_horizontal = given.chunk(2, dim=1)
        return _gated(seen + for_vertical), self.down(seen) + for_horizontal

    def forward(self, horizontal: Tensor, given: Tensor) -> Tensor:
        """The horizontal stack (B, width, h, w) in the next layer, from that and what ``pass_down`` gives it."""
        before = self.reach - 1 + self.is_first
        beside = self.horizontal(F.pad(horizontal, (before, 0, 0, 0)))[:, :, :, : horizontal.shape[3]]
        passed: Tensor = self.out(_gated(beside + given))
        return passed if self.is_first else horizontal + passed


def _gated(both: Tensor) -> Tensor:
    signal, gate = both.chunk(2, dim=1)
    return signal.tanh() * gate.sigmoid()
