"""The mask losses and the backbone of the SegReg paper, for one pair at a time, without training.

The losses are terms of iterreg's own optimiser. The backbone is a small UNet of four levels with
one set of weights: it is fed each region's pair of masked images, and predicts a velocity field,
which scaling and squaring makes a displacement. The fixed labels compose the displacements. Its
weights are optimised for the pair at hand.

Source: SegReg (arXiv 2509.15784), "Region-wise Mapping", "Loss Function", eq. 4 and 5.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = {"dice": (1.0, 0.1, 0.01), "edt": (1.0, 10.0, 0.01), "dice+edt": (1.0, 0.1, 0.01)}
"""The paper's weights for cardiac MR: of the intensities, the masks and the smoothness."""

CHANNELS = (8, 16, 32, 32)
SQUARINGS = 6
MARGIN_VOX = (2, 12, 12)
"""Around the regions; nothing moves farther away."""


def settings(kind: str) -> dict[str, Any]:
    """iterreg's optimiser with a mask loss of the paper, its weights and its regulariser."""
    similarity, masks, smoothness = WEIGHTS[kind]
    return {
        "similarity.kind": "mse",
        "similarity.weight": similarity,
        "overlap.kind": kind,
        "overlap.weight": masks,
        "overlap.far_mm": 0.0,
        "correction.weight": 0.0,
        "smoothness.kind": "region-means",
        "smoothness.weight": smoothness,
        "smoothness.sliding": [],
        "smoothness.glued": [],
        "smoothness.free": [["*", "*"]],
    }


class Backbone(nn.Module):
    """A UNet of four levels, from a pair of masked images to a velocity field in voxels.

    Slices are thick, so pooling leaves the first axis as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        down, up, width = [], [], 2
        for channels in CHANNELS:
            down.append(block(width, channels))
            width = channels
        for channels in reversed(CHANNELS[:-1]):
            up.append(block(width + channels, channels))
            width = channels
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.last = nn.Conv3d(width, 3, 3, padding=1)
        nn.init.normal_(self.last.weight, std=1e-5)
        nn.init.zeros_(self.last.bias)

    def forward(self, pair: Tensor) -> Tensor:
        """(regions, 2, Z, Y, X) to (regions, 3, Z, Y, X)."""
        skipped = []
        for level, layer in enumerate(self.down):
            if level:
                skipped.append(pair)
                pair = functional.avg_pool3d(pair, (1, 2, 2))
            pair = layer(pair)
        for layer in self.up:
            skip = skipped.pop()
            pair = functional.interpolate(pair, skip.shape[2:], mode="nearest")
            pair = layer(torch.cat((pair, skip), 1))
        result: Tensor = self.last(pair)
        return result


def block(before: int, after: int) -> nn.Module:
    """A convolution and its activation."""
    return nn.Sequential(nn.Conv3d(before, after, 3, padding=1), nn.LeakyReLU(0.2))


def pulled(volume: Tensor, u_vox: Tensor) -> Tensor:
    """(regions, C, Z, Y, X) volumes sampled at x + u(x), u (regions, 3, Z, Y, X)."""
    shape = volume.shape[2:]
    axes = [torch.arange(n, dtype=u_vox.dtype) for n in shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij")) + u_vox
    size = torch.tensor([n - 1 for n in shape], dtype=u_vox.dtype).view(3, 1, 1, 1)
    unit = (2 * place / size - 1).flip(1).movedim(1, -1)
    return functional.grid_sample(volume, unit, padding_mode="border", align_corners=True)


def integrated(velocity: Tensor) -> Tensor:
    """Scaling and squaring: the displacement after the velocity has acted for a unit of time."""
    u = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        u = u + pulled(u, u)
    return u


@dataclass(frozen=True)
class Regions:
    """The regions of a pair, each a batch entry: (regions, 1, Z, Y, X)."""

    fixed: Tensor
    moving: Tensor
    fixed_masks: Tensor
    moving_masks: Tensor
    fixed_depth: Tensor
    moving_depth: Tensor

    @classmethod
    def of(cls, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Regions:
        """Of two images and their label maps; the background is a region too."""
        values = sorted(set(labels[0].unique().tolist()) & set(labels[1].unique().tolist()))
        masks = [torch.stack([(m == v).float() for v in values])[:, None] for m in labels]
        scaled = [(i - i.min()) / (i.max() - i.min()) for i in images]
        return cls(
            scaled[0] * masks[0], scaled[1] * masks[1], *masks, depth(masks[0]), depth(masks[1])
        )


def depth(masks: Tensor) -> Tensor:
    """Distance to the boundary inside each mask, from 0 to 1."""
    maps = []
    for mask in masks[:, 0].numpy():
        found = ndimage.distance_transform_edt(mask)
        maps.append(torch.from_numpy(found / max(1.0, found.max())).float())
    return torch.stack(maps)[:, None]


def loss(regions: Regions, u_vox: Tensor, kind: str) -> Tensor:
    """Eq. 5, summed over the regions."""
    of_intensity, of_masks, of_smoothness = WEIGHTS[kind]
    stack = torch.cat((regions.moving, regions.moving_masks, regions.moving_depth), 1)
    image, mask, deep = pulled(stack, u_vox).split(1, 1)
    axes = (1, 2, 3, 4)
    intensity = (image - regions.fixed).square().mean(axes)
    shared = 2 * (mask * regions.fixed_masks).sum(axes)
    dice = 1 - shared / (mask.sum(axes) + regions.fixed_masks.sum(axes))
    edt = (deep - regions.fixed_depth).square().mean(axes)
    masks = {"dice": dice, "edt": edt, "dice+edt": (dice + 100 * edt) / 2}[kind]
    smooth = sum(u_vox.diff(dim=axis).square().mean(axes) for axis in (2, 3, 4))
    return (of_intensity * intensity + of_masks * masks + of_smoothness * smooth).sum()


def by_backbone(pair: Any, kind: str, steps: int, rate: float = 2e-3) -> tuple[Any, float]:
    """Optimise the backbone's weights for a pair.

    Args:
        pair: of ``studies.py``; both images on one lattice.
        kind: the mask loss.
        steps: of Adam.
        rate: its learning rate at the first step, which falls as a power of 0.9.

    Returns:
        The transform, and the CPU seconds.
    """
    from iterreg.displacement import DisplacementField, Transform
    from iterreg.energy.region import Region

    torch.manual_seed(0)
    labels = [m.data for m in pair.labels]
    foreground = Region.of((labels[0] > 0) | (labels[1] > 0))
    assert foreground is not None, "the hearts are labelled"
    box = foreground.grown_box(MARGIN_VOX)
    regions = Regions.of([i.data[0][box] for i in pair.images], [m[box] for m in labels])
    network, begun = Backbone(), time.process_time()
    adam = torch.optim.Adam(network.parameters(), lr=rate)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: (1 - k / steps) ** 0.9)
    inputs = torch.cat((regions.fixed, regions.moving), 1)
    for _ in range(steps):
        adam.zero_grad()
        loss(regions, integrated(network(inputs)), kind).backward()
        adam.step()
        decay.step()
    with torch.no_grad():
        fields = integrated(network(inputs))
    composed = torch.zeros(3, *labels[0].shape)
    composed[(slice(None), *box)] = (fields * regions.fixed_masks).sum(0)
    field = DisplacementField(composed, pair.images[0].grid)
    return Transform(np.eye(4), field), time.process_time() - begun
