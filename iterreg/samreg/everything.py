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

from iterreg.samreg.glance import worth_decoding
from iterreg.samreg.rle import RunLengthMask, encode_mask
from iterreg.samreg.segmenter import Embedding, Segmenter

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
            which no other one gives (:mod:`iterreg.samreg.glance`); False decodes them all.
    """

    points: int = 20
    predicted_iou: float = 0.90
    stability: float = 0.90
    stability_offset: float = 1.0
    nms: float = 0.7
    batch: int = 64
    more: tuple[tuple[float, ...], ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    aimed: tuple[tuple[float, ...], ...] = ()
    glance: bool = True


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
    asked = torch.tensor(settings.more, dtype=torch.float32).reshape(-1, 2)
    grid = grid_points(picture, settings.points)
    if settings.glance:
        grid = grid[worth_decoding(segmenter, embedding, grid, settings.predicted_iou)]
    points = torch.cat((asked, grid))
    all_logits, all_iou, candidates, decoded_hw = [], [], 0, (0, 0)
    kept_anyway = replace(settings, predicted_iou=-1.0, stability=0.0)
    for boxes, limits in ((settings.boxes, kept_anyway), (settings.aimed, settings)):
        if not boxes:
            continue
        masks = segmenter.decode_boxes(embedding, torch.tensor(boxes))
        candidates, decoded_hw = candidates + len(boxes), _size_hw(masks.logits)
        logits, iou = _reliable(masks.logits, masks.predicted_iou, embedding, limits)
        all_logits.append(logits)
        all_iou.append(iou)
    for begin, batch in _batches(points, settings.batch):
        masks = segmenter.decode(embedding, batch.to(segmenter.device))
        candidates += masks.predicted_iou.numel()
        decoded_hw = _size_hw(masks.logits)
        logits, iou = _reliable(masks.logits, masks.predicted_iou, embedding, settings)
        all_logits.append(logits)
        all_iou.append(iou)
        on_fraction((begin + len(batch)) / len(points))
    features = _crop_padding(embedding.features, embedding)
    mean = features.flatten(1).mean(1).float().cpu()
    if not all_logits:
        empty = torch.zeros(0, len(mean))
        return Rois((), empty, torch.zeros(0), mean)
    logits, iou = torch.cat(all_logits), torch.cat(all_iou)
    chosen = _non_maximum_suppression(logits > 0, iou, settings.nms)
    logits, iou = logits[chosen], iou[chosen]
    resized = _masks_at_size(logits, embedding, decoded_hw, shape)
    return Rois(
        tuple(encode_mask(mask.cpu().numpy()) for mask in resized),
        _prototypes(logits > 0, embedding, decoded_hw).float().cpu(),
        iou.float().cpu(),
        mean,
        len(points) + len(settings.aimed),
        candidates,
    )


def _size_hw(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


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


def _batches(points: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    yield from zip(range(0, len(points), size), points.split(size), strict=False)


def _reliable(
    logits: Tensor, predicted_iou: Tensor, embedding: Embedding, settings: EverythingSettings
) -> tuple[Tensor, Tensor]:
    """Keep masks with a high predicted IoU that are stable, and crop the padding off them."""
    good = predicted_iou > settings.predicted_iou
    kept, iou = _crop_padding(logits[good], embedding), predicted_iou[good]
    offset = settings.stability_offset
    inner = (kept > offset).sum((1, 2))
    stable = inner >= settings.stability * (kept > -offset).sum((1, 2)).clamp(min=1)
    return kept[stable].half(), iou[stable]


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
