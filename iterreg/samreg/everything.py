"""Everything mode: a grid of points, each answered by masks, of which the trustworthy ones survive.

A mask that survives leaves its run-length form and its prototype: the mean embedding of its pixels,
each cell of the embedding weighed by how much of it the mask covers (the padding around the picture
covers nothing). The embedding itself is not kept.

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

from iterreg.samreg.rle import RunLengthMask, encode_mask
from iterreg.samreg.segmenter import Embedding, Segmenter

BLANK_LEVELS = 4
"""A point is skipped where its cell of the grid differs by no more than this (of 255) from the
picture's border colour: nothing is there but background."""


@dataclass(frozen=True)
class EverythingSettings:
    """What decides which masks survive.

    Args:
        points: of the grid, along each side of the picture.
        predicted_iou: least judgement of the decoder itself; the papers' 0.90.
        stability: least overlap of the mask with itself when its threshold moves by +-
            ``stability_offset``; the papers' 0.90.
        nms: of two masks whose boxes overlap more than this, the one judged worse goes.
        batch: points decoded at once.
    """

    points: int = 16
    predicted_iou: float = 0.90
    stability: float = 0.90
    stability_offset: float = 1.0
    nms: float = 0.7
    batch: int = 64


@dataclass(frozen=True)
class Rois:
    """The masks of one slice, and what matching needs to know of them.

    Args:
        masks: on the slice's own voxels.
        prototypes: (N, C) float32, mean embedding of each.
        predicted_iou: (N,).
        mean: (C,) float32, mean embedding of the whole slice.
        points: how many points were decoded, and ``candidates``: masks before any filter.
        seconds: spent encoding and decoding; zeros for a blank slice or one out of the cache.
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
        """Some of the masks, in the order given."""
        index = torch.tensor(chosen, dtype=torch.long)
        return replace(
            self,
            masks=tuple(self.masks[k] for k in chosen),
            prototypes=self.prototypes[index],
            predicted_iou=self.predicted_iou[index],
        )


def everything(
    segmenter: Segmenter,
    embedding: Embedding,
    picture: Tensor,
    shape: tuple[int, int],
    settings: EverythingSettings,
    progress: Callable[[float], None] = lambda share: None,
) -> Rois:
    """Segment everything in one encoded picture.

    Args:
        segmenter: decodes the points.
        embedding: of the picture.
        picture: (H, W, 3) uint8.
        shape: rows and columns that the masks shall have, the slice's own voxels.
        settings: what survives.
        progress: told the share of the points that are decoded.

    Returns:
        The masks, best judged first, with their prototypes.
    """
    points = grid_points(picture, settings.points)
    survivors, scores, candidates, whole = [], [], 0, (0, 0)
    for begin, batch in _batches(points, settings.batch):
        answer = segmenter.decode(embedding, batch.to(segmenter.device))
        candidates += answer.predicted_iou.numel()
        whole = (answer.logits.shape[-2], answer.logits.shape[-1])
        kept, score = _trusted(answer.logits, answer.predicted_iou, embedding, settings)
        survivors.append(kept)
        scores.append(score)
        progress((begin + len(batch)) / len(points))
    features = _valid(embedding.features, embedding)
    mean = features.flatten(1).mean(1).float().cpu()
    if not survivors:
        empty = torch.zeros(0, len(mean))
        return Rois((), empty, torch.zeros(0), mean)
    logits, score = torch.cat(survivors), torch.cat(scores)
    chosen = _suppressed(logits > 0, score, settings.nms)
    logits, score = logits[chosen], score[chosen]
    return Rois(
        tuple(encode_mask(m.cpu().numpy()) for m in _at_size(logits, embedding, whole, shape)),
        _prototypes(logits > 0, embedding, whole).float().cpu(),
        score.float().cpu(),
        mean,
        len(points),
        candidates,
    )


def grid_points(picture: Tensor, side: int) -> Tensor:
    """Points of a regular grid that see more than blank background: (N, 2), x before y."""
    height, width = picture.shape[:2]
    shown = differs_from_border(picture)
    rows = np.linspace(0, height, side + 1).round().astype(int)
    columns = np.linspace(0, width, side + 1).round().astype(int)
    points = [
        ((k + 0.5) / side * width, (j + 0.5) / side * height)
        for j in range(side)
        for k in range(side)
        if bool(shown[rows[j] : rows[j + 1] + 1, columns[k] : columns[k + 1] + 1].any())
    ]
    return torch.tensor(points, dtype=torch.float32).reshape(-1, 2)


def differs_from_border(picture: Tensor) -> Tensor:
    """(H, W) bool, pixels that are not of the colour that most of the picture's border has."""
    border = torch.cat((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    blank = border.mode(0).values.int()
    return (picture.int() - blank).abs().amax(2) > BLANK_LEVELS


def _batches(points: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    yield from zip(range(0, len(points), size), points.split(size), strict=False)


def _trusted(
    logits: Tensor, predicted_iou: Tensor, embedding: Embedding, settings: EverythingSettings
) -> tuple[Tensor, Tensor]:
    """Masks that the decoder trusts and that are stable, at its resolution, without padding."""
    good = predicted_iou > settings.predicted_iou
    kept, score = _valid(logits[good], embedding), predicted_iou[good]
    offset = settings.stability_offset
    inner = (kept > offset).sum((1, 2))
    stable = inner >= settings.stability * (kept > -offset).sum((1, 2)).clamp(min=1)
    return kept[stable].half(), score[stable]


def _valid(maps: Tensor, embedding: Embedding) -> Tensor:
    """The part of (..., h, w) maps that shows the picture, in whole cells."""
    rows = math.ceil(embedding.valid_hw[0] * maps.shape[-2] - 1e-6)
    columns = math.ceil(embedding.valid_hw[1] * maps.shape[-1] - 1e-6)
    return maps[..., :rows, :columns]


def _suppressed(masks: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices of the masks that no better one resembles, best first."""
    from torchvision.ops import masks_to_boxes, nms

    whole = masks.flatten(1).any(1).nonzero().squeeze(1)
    boxes = masks_to_boxes(masks[whole]) if len(whole) else torch.zeros(0, 4)
    return whole[nms(boxes.to(scores.device), scores[whole].float(), threshold)]


def _at_size(
    logits: Tensor, embedding: Embedding, whole: tuple[int, int], shape: tuple[int, int]
) -> Iterator[Tensor]:
    """Each mask at the slice's own voxels, (H, W) bool: logits interpolated, then thresholded."""
    rows, columns = (
        (torch.arange(n, device=logits.device) + 0.5) * (share * size / n) - 0.5
        for n, share, size in zip(shape, embedding.valid_hw, whole, strict=True)
    )
    for one in logits:
        yield _interpolated(_interpolated(one.float(), rows, 0), columns, 1) > 0


def _interpolated(plane: Tensor, at: Tensor, axis: int) -> Tensor:
    """Linear interpolation along one axis at fractional indices, the ends held."""
    at = at.clamp(0, plane.shape[axis] - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=plane.shape[axis] - 1)
    share = (at - low).view(-1, 1) if axis == 0 else (at - low).view(1, -1)
    return plane.index_select(axis, low) * (1 - share) + plane.index_select(axis, high) * share


def _prototypes(masks: Tensor, embedding: Embedding, whole: tuple[int, int]) -> Tensor:
    """(N, C): mean embedding of each mask, cells weighed by the share that it covers (eq. 5)."""
    features = _valid(embedding.features, embedding).float()
    cell = [n // m for n, m in zip(whole, embedding.features.shape[1:], strict=True)]
    missing = [m * k - n for m, k, n in zip(features.shape[1:], cell, masks.shape[1:], strict=True)]
    padded = torch.nn.functional.pad(masks.float(), (0, missing[1], 0, missing[0]))
    weights = torch.nn.functional.avg_pool2d(padded[:, None], cell).flatten(1)
    total = weights.sum(1, keepdim=True).clamp(min=1e-6)
    return weights @ features.flatten(1).T / total
