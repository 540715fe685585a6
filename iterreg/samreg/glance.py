"""Which points of a grid are worth decoding: a coarse look at all of them decides.

Most points of a grid give a mask that another one gives too. On an embedding of half the resolution
the decoder sees nearly the same masks at a sixth of the cost. Points are chosen so that each coarse
mask is covered by that of a chosen point; only those are decoded, and judged, in full. What covers
nothing after all, because its mask is not good enough in full, gives way to another point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.samreg.segmenter import Embedding, Glancing, Segmenter

SLACKS = (0.3, 0.05, 0.05)
"""A coarse mask counts if its predicted IoU is higher than the limit less this: when points are
chosen for the first time, the second and the third. The coarse look thinks less of small masks."""

SAME = 0.7
"""Two coarse masks show the same if their intersection over union exceeds this: about where
everything mode drops one of two masks that it decoded. With less a shape hides one around it."""


class Look:
    """The coarse masks of points, and what is known of them in full.

    Args:
        masks: (N, M, h, w) bool, M masks of each point; None chooses all points.
        predicted_iou: (N, M) of each.

    Example:
        >>> masks = torch.eye(3, dtype=torch.bool)[[0, 0, 1, 2]].view(4, 1, 1, 3)
        >>> look = Look(masks, torch.tensor([[0.8], [0.9], [0.7], [0.2]]))
        >>> look.choose(0.5).tolist()
        [1, 2]
        >>> look.tell(torch.tensor([1, 2]), torch.tensor([[False], [True]]))
        >>> look.choose(0.5).tolist()
        [0]
    """

    def __init__(self, masks: Tensor | None, predicted_iou: Tensor) -> None:
        """Nothing is known in full."""
        self._iou, self._each = predicted_iou.flatten().float(), predicted_iou.shape[1]
        self._point = torch.arange(len(self._iou)) // self._each
        self._left = torch.ones(len(predicted_iou), dtype=torch.bool)
        self._covered = torch.zeros(len(self._iou), dtype=torch.bool)
        self._same = None if masks is None else _same(masks.flatten(0, 1).flatten(1).float())

    def choose(self, least_iou: float) -> Tensor:
        """Choose points, best first, until each mask is covered.

        Args:
            least_iou: masks with less play no part.

        Returns:
            Indices of points that are not known in full, ascending.
        """
        if self._same is None:
            return self._left.nonzero().squeeze(1)
        counts = (self._iou > least_iou) & self._same.diagonal()
        known = (counts & self._left[self._point]).nonzero().squeeze(1)
        covered = self._covered.clone()
        chosen = []
        for k in known[self._iou[known].argsort(descending=True, stable=True)].tolist():
            if not covered[k]:
                chosen.append(int(self._point[k]))
                covered |= self._same[counts & (self._point == self._point[k])].any(0)
        return torch.tensor(sorted(chosen), dtype=torch.long)

    def tell(self, chosen: Tensor, good: Tensor) -> None:
        """Tell what points gave in full.

        Args:
            chosen: indices of n points.
            good: (n, M) bool, whether each of their masks is good enough; or (n, 1), where
                decoding gives but the best one.
        """
        self._left[chosen] = False
        if self._same is not None:
            gave = torch.zeros(len(self._left), self._each, dtype=torch.bool)
            gave[chosen] = good
            self._covered |= self._same[gave.flatten()].any(0)


def look_at(segmenter: Segmenter, embedding: Embedding, points_xy: Tensor, glance: bool) -> Look:
    """Look at points.

    Args:
        segmenter: one that does not glance leaves all points to be chosen.
        embedding: of the picture.
        points_xy: (N, 2) pixels of the picture.
        glance: False does not look either.
    """
    seen = None
    if glance and len(points_xy) and isinstance(segmenter, Glancing):
        seen = segmenter.glance(embedding, points_xy.to(segmenter.device))
    if seen is None:
        return Look(None, torch.zeros(len(points_xy), 1))
    return Look(seen.logits.cpu() > 0, seen.predicted_iou.cpu())


def _same(masks: Tensor) -> Tensor:
    """Which of K masks (K, pixels), of 0 and 1, show the same: (K, K); an empty one none."""
    shared, area = masks @ masks.T, masks.sum(1)
    return shared > SAME * (area[:, None] + area[None] - shared)
