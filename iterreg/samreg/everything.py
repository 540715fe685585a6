"""Everything mode: decode masks for a grid of points, and keep the reliable ones.

Each mask that is kept is stored in run-length form with its prototype, the mean embedding of its
pixels. Each cell of the embedding is weighted by the area that the mask covers (the padding around
the picture does not count). The embedding itself is not kept.

Source: Segment Anything (arXiv 2304.02643), appendix B; SAMReg (arXiv 2410.14083), eq. 3-5 and
"Implementation Details".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from iterreg.samreg.glance import SLACKS, look_at
from iterreg.samreg.rle import RunLengthMask, encode_mask
from iterreg.samreg.segmenter import Embedding, Masks, Segmenter

BLANK_LEVELS = 4
"""A point is skipped if its cell of the grid shows only background: no pixel differs from the
picture's border colour by more than this (of 255)."""


@dataclass(frozen=True)
class EverythingSettings:
    """Settings that decide which masks are kept.

    Args:
        points: points of the grid along each side of the picture.
        predicted_iou: least IoU that the decoder predicts for its own mask; 0.90 in the papers.
        stability: least IoU between the mask at a threshold raised by ``stability_offset`` and at
            one lowered by it; 0.90 in the papers.
        stability_offset: of the logits' threshold.
        nms: if the boxes of two masks overlap more than this, the one with the lower predicted IoU
            is dropped (non-maximum suppression).
        batch: points decoded at once.
        more: further points (x, y), pixels of the picture.
        boxes: boxes (x, y, x2, y2), pixels of the picture. Their masks are kept whatever the
            decoder thinks of them.
        aimed: boxes in the same form whose masks have to be as reliable as those of the grid.
        glance: look at the grid coarsely first, and decode only the points that promise a mask
            which no other one gives (:mod:`iterreg.samreg.glance`); False decodes them all. None
            looks coarsely at the slices of a volume, which are many, and not at pictures.
    """

    points: int = 16
    predicted_iou: float = 0.90
    stability: float = 0.90
    stability_offset: float = 1.0
    nms: float = 0.7
    batch: int = 64
    more: tuple[tuple[float, ...], ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    aimed: tuple[tuple[float, ...], ...] = ()
    glance: bool | None = None


@dataclass(frozen=True)
class Rois:
    """The masks of one slice, with what the matching needs.

    Args:
        masks: N masks on the slice's own voxels.
        prototypes: (N, C) float32, mean embedding of each.
        predicted_iou: (N,).
        mean: (C,) float32, mean embedding of the whole slice.
        points: number of points decoded, not those that were only glanced at.
        candidates: number of masks before any filter.
        seconds: spent on encode and decode; empty for a slice from the cache.
    """

    masks: tuple[RunLengthMask, ...]
    prototypes: Tensor
    predicted_iou: Tensor
    mean: Tensor
    points: int = 0
    candidates: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.masks)

    def only(self, chosen: Sequence[int]) -> Rois:
        """Select masks by index, in the order given."""
        index = torch.tensor(chosen, dtype=torch.long)
        return replace(
            self,
            masks=tuple(self.masks[k] for k in chosen),
            prototypes=self.prototypes[index],
            predicted_iou=self.predicted_iou[index],
        )


def segment_everything(
    segmenter: Segmenter,
    embedding: Embedding,
    picture: Tensor,
    shape: tuple[int, int],
    settings: EverythingSettings,
    on_fraction: Callable[[float], None] = lambda fraction: None,
) -> Rois:
    """Segment everything in one encoded picture.

    Args:
        segmenter: decodes the points.
        embedding: of the picture.
        picture: (H, W, 3) uint8.
        shape: rows and columns of the masks, those of the slice's own voxels.
        settings: which masks to keep.
        on_fraction: called with the fraction of the points that are decoded.

    Returns:
        The masks, highest predicted IoU first, with their prototypes.
    """
    found = _Found(segmenter, embedding, settings)
    kept_anyway = replace(settings, predicted_iou=-1.0, stability=0.0)
    for boxes, limits in ((settings.boxes, kept_anyway), (settings.aimed, settings)):
        if boxes:
            found.judge(segmenter.decode_boxes(embedding, torch.tensor(boxes)), limits)
    found.decode(torch.tensor(settings.more, dtype=torch.float32).reshape(-1, 2))
    grid = grid_points(picture, settings.points)
    look = look_at(segmenter, embedding, grid, bool(settings.glance))
    for done, slack in enumerate(SLACKS):
        on_fraction(done / len(SLACKS))
        chosen = look.choose(settings.predicted_iou - slack)
        look.tell(chosen, found.decode(grid[chosen]))
    on_fraction(1.0)
    features = _crop_padding(embedding.features, embedding)
    mean = features.flatten(1).mean(1).float().cpu()
    if not found.logits:
        empty = torch.zeros(0, len(mean))
        return Rois((), empty, torch.zeros(0), mean)
    logits, iou = torch.cat(found.logits), torch.cat(found.predicted_iou)
    chosen = _non_maximum_suppression(logits > 0, iou, settings.nms)
    logits, iou = logits[chosen], iou[chosen]
    resized = _masks_at_size(logits, embedding, found.decoded_hw, shape)
    return Rois(
        tuple(encode_mask(mask.cpu().numpy()) for mask in resized),
        _prototypes(logits > 0, embedding, found.decoded_hw).float().cpu(),
        iou.float().cpu(),
        mean,
        found.points + len(settings.aimed),
        found.candidates,
    )


class _Found:
    """The reliable masks that were decoded so far, cropped, and their predicted IoU."""

    def __init__(
        self, segmenter: Segmenter, embedding: Embedding, settings: EverythingSettings
    ) -> None:
        self._segmenter, self._embedding, self._settings = segmenter, embedding, settings
        self.logits: list[Tensor] = []
        self.predicted_iou: list[Tensor] = []
        self.points, self.candidates, self.decoded_hw = 0, 0, (0, 0)

    def decode(self, points_xy: Tensor) -> Tensor:
        """Decode points (N, 2); say which of their M masks are reliable: (N, M) bool."""
        self.points += len(points_xy)
        good = [torch.zeros(0, 1, dtype=torch.bool)] if not len(points_xy) else []
        for batch in points_xy.split(self._settings.batch) if len(points_xy) else ():
            masks = self._segmenter.decode(self._embedding, batch.to(self._segmenter.device))
            good.append(self.judge(masks, self._settings))
        return torch.cat(good)

    def judge(self, masks: Masks, limits: EverythingSettings) -> Tensor:
        """Keep the reliable ones of some masks, and say which they are: (N, M) bool."""
        self.candidates += masks.predicted_iou.numel()
        self.decoded_hw = masks.logits.shape[-2], masks.logits.shape[-1]
        good = masks.predicted_iou > limits.predicted_iou
        logits = _crop_padding(masks.logits[good], self._embedding)
        stable = _is_stable(logits, limits)
        good[good.clone()] = stable
        self.logits.append(logits[stable].half())
        self.predicted_iou.append(masks.predicted_iou[good])
        return good.cpu()


def grid_points(picture: Tensor, side: int) -> Tensor:
    """Make a regular grid of points, without those on blank background: (N, 2), x before y."""
    height, width = picture.shape[:2]
    foreground = differs_from_border(picture)
    rows = np.linspace(0, height, side + 1).round().astype(int)
    columns = np.linspace(0, width, side + 1).round().astype(int)
    points = [
        ((k + 0.5) / side * width, (j + 0.5) / side * height)
        for j in range(side)
        for k in range(side)
        if bool(foreground[rows[j] : rows[j + 1] + 1, columns[k] : columns[k + 1] + 1].any())
    ]
    return torch.tensor(points, dtype=torch.float32).reshape(-1, 2)


def differs_from_border(picture: Tensor) -> Tensor:
    """(H, W) bool, pixels that differ from the most frequent colour of the picture's border."""
    border = torch.cat((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    blank = border.mode(0).values.int()
    return (picture.int() - blank).abs().amax(2) > BLANK_LEVELS


def _is_stable(logits: Tensor, settings: EverythingSettings) -> Tensor:
    """(K,) bool: whether masks (K, h, w) hardly change with the threshold of their logits."""
    offset = settings.stability_offset
    inner, outer = ((logits > at).sum((1, 2)) for at in (offset, -offset))
    return inner >= settings.stability * outer.clamp(min=1)


def _crop_padding(maps: Tensor, embedding: Embedding) -> Tensor:
    """Crop (..., h, w) maps to the part that shows the picture, in whole cells."""
    rows = math.ceil(embedding.valid_hw[0] * maps.shape[-2] - 1e-6)
    columns = math.ceil(embedding.valid_hw[1] * maps.shape[-1] - 1e-6)
    return maps[..., :rows, :columns]


def _non_maximum_suppression(masks: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the indices of masks whose box overlaps no better one's too much, best first."""
    from torchvision.ops import masks_to_boxes, nms

    nonempty = masks.flatten(1).any(1).nonzero().squeeze(1)
    boxes = masks_to_boxes(masks[nonempty]) if len(nonempty) else torch.zeros(0, 4)
    return nonempty[nms(boxes.to(scores.device), scores[nonempty].float(), threshold)]


def _masks_at_size(
    logits: Tensor, embedding: Embedding, decoded_hw: tuple[int, int], shape: tuple[int, int]
) -> Iterator[Tensor]:
    """Yield each mask on the slice's own voxels, (H, W) bool: interpolate logits, then threshold.

    Args:
        logits: (N, h, w), cropped.
        embedding: says which part of the decoder's output shows the picture.
        decoded_hw: rows and columns of the decoder's output before cropping.
        shape: rows and columns of the slice.
    """
    rows, columns = (
        (torch.arange(n, device=logits.device) + 0.5) * (valid * size / n) - 0.5
        for n, valid, size in zip(shape, embedding.valid_hw, decoded_hw, strict=True)
    )
    for mask_logits in logits:
        yield _interpolate(_interpolate(mask_logits.float(), rows, 0), columns, 1) > 0


def _interpolate(plane: Tensor, index: Tensor, axis: int) -> Tensor:
    """Interpolate linearly along one axis at fractional indices, clamped at the ends."""
    index = index.clamp(0, plane.shape[axis] - 1)
    low = index.floor().long()
    high = (low + 1).clamp(max=plane.shape[axis] - 1)
    t = (index - low).view(-1, 1) if axis == 0 else (index - low).view(1, -1)
    return plane.index_select(axis, low) * (1 - t) + plane.index_select(axis, high) * t


def _prototypes(masks: Tensor, embedding: Embedding, decoded_hw: tuple[int, int]) -> Tensor:
    """(N, C): mean embedding of each mask, cells weighted by the area that it covers (eq. 5)."""
    features = _crop_padding(embedding.features, embedding).float()
    cell = [n // m for n, m in zip(decoded_hw, embedding.features.shape[1:], strict=True)]
    missing = [m * k - n for m, k, n in zip(features.shape[1:], cell, masks.shape[1:], strict=True)]
    padded = torch.nn.functional.pad(masks.float(), (0, missing[1], 0, missing[0]))
    weights = torch.nn.functional.avg_pool2d(padded[:, None], cell).flatten(1)
    total = weights.sum(1, keepdim=True).clamp(min=1e-6)
    return weights @ features.flatten(1).T / total
