"""Which points of a grid are worth decoding: a coarse look at all of them decides.

Most points of a grid give a mask that another one gives too. On an embedding of half the resolution
the decoder sees nearly the same masks at a sixth of the cost. Points are chosen so that each
coarse mask is covered by that of a chosen point; only those are decoded, and judged, in full.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.samreg.segmenter import Embedding, Glancing, Segmenter

SLACK = 0.2
"""A coarse mask counts if its predicted IoU is higher than the limit less this. The coarse look
thinks less of small masks. With 0.3 four in a hundred more are found, for a third more points."""

SAME = 0.6
"""Two coarse masks show the same if their intersection over union exceeds this."""


def worth_decoding(
    segmenter: Segmenter, embedding: Embedding, points_xy: Tensor, least_iou: float
) -> Tensor:
    """Choose the points to decode.

    Args:
        segmenter: all points are chosen if it does not glance.
        embedding: of the picture.
        points_xy: (N, 2) pixels of the picture.
        least_iou: predicted IoU that a decoded mask must exceed.

    Returns:
        Indices, ascending.
    """
    everything = torch.arange(len(points_xy))
    if not len(points_xy) or not isinstance(segmenter, Glancing):
        return everything
    seen = segmenter.glance(embedding, points_xy.to(segmenter.device))
    if seen is None:
        return everything
    return covering(seen.logits.cpu() > 0, seen.predicted_iou.cpu(), least_iou - SLACK)


def covering(masks: Tensor, predicted_iou: Tensor, least_iou: float) -> Tensor:
    """Choose points, best first, until each mask is covered by a mask of a chosen point.

    Args:
        masks: (N, M, h, w) bool, M masks of each point.
        predicted_iou: (N, M) of each.
        least_iou: masks with less play no part.

    Returns:
        Indices of the points, ascending.

    Example:
        >>> masks = torch.eye(3, dtype=torch.bool)[[0, 0, 1, 2]].view(4, 1, 1, 3)
        >>> covering(masks, torch.tensor([[0.8], [0.9], [0.7], [0.2]]), 0.5).tolist()
        [1, 2]
    """
    flat, iou = masks.flatten(0, 1).flatten(1), predicted_iou.flatten().float()
    known = ((iou > least_iou) & flat.any(1)).nonzero().squeeze(1)
    known = known[iou[known].argsort(descending=True, stable=True)]
    point, area = known // masks.shape[1], flat[known].sum(1)
    shown = flat[known].float()
    shared = shown @ shown.T
    same = shared > SAME * (area[:, None] + area[None] - shared)
    covered = torch.zeros(len(known), dtype=torch.bool)
    chosen = []
    for k in range(len(known)):
        if not covered[k]:
            chosen.append(int(point[k]))
            covered |= same[point == point[k]].any(0)
    return torch.tensor(sorted(chosen), dtype=torch.long)
