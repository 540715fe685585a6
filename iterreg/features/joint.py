"""Few channels of the features of two images: what both vary in most."""

from __future__ import annotations

import torch
from torch import Tensor

VARIANCE = 0.05
"""Mean variance of a channel: about that of a channel of MIND, so that weights mean the same."""

LEAST_VARIANCE = 1e-12


def reduce_jointly(fixed: Tensor, moving: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Replace channels by their main directions, those in which both images vary most.

    Each image's own mean is removed first: it is what its contrast adds to all cells.

    Args:
        fixed, moving: (C, ...) each. Cells that hold NaN say nothing: they play no part, and
            become 0, the mean.
        channels: most channels of the result.

    Returns:
        Both with the same channels, the largest first, in one scale: their mean variance is
        ``VARIANCE``.

    Example:
        >>> across = torch.linspace(-1, 1, 50)
        >>> fixed = torch.stack((across, 2 * across, torch.zeros(50)))
        >>> reduced, same = reduce_jointly(fixed, fixed + 7, channels=1)
        >>> reduced.shape, torch.allclose(reduced, same, atol=1e-5)
        (torch.Size([1, 50]), True)
    """
    known = [(x.isfinite().all(0), x) for x in (fixed, moving)]
    cells = [x[:, seen].double() for seen, x in known]
    means = [c.mean(1, keepdim=True) for c in cells]
    both = torch.cat([c - m for c, m in zip(cells, means, strict=True)], 1)
    variance, axes = torch.linalg.eigh(both @ both.T / max(1, both.shape[1]))
    axes = axes.flip(1)[:, :channels]
    kept = variance.flip(0)[:channels].clamp(min=0)
    axes = axes * (VARIANCE / kept.mean().clamp(min=LEAST_VARIANCE)).sqrt()
    reduced = []
    for (seen, x), c, m in zip(known, cells, means, strict=True):
        out = torch.zeros(axes.shape[1], *x.shape[1:], dtype=torch.float32, device=x.device)
        out[:, seen] = (axes.T @ (c - m)).float()
        reduced.append(out)
    return reduced[0], reduced[1]
