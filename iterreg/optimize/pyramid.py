"""Levels of resolution: images pooled, labels pooled by majority, fields carried down.

Inside the optimiser everything has rank 3: a picture is a volume of one slice, whose first axis
has no gradient and no motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, pad

from iterreg.energy.region import Box, Region
from iterreg.geometry import Grid, Matrix, fixed_to_moving_index
from iterreg.kernels import IndexMap, upsample


@dataclass(frozen=True)
class Scene:
    """One image with its regions, at one resolution, ready for the optimiser.

    Args:
        image: (C, Z, Y, X) normalised intensities.
        labels: (Z, Y, X) int32 compact labels, 0 ... n - 1 with 0 the background.
        known: (Z, Y, X) bool, the field of view, masks applied.
        grid: of the voxels; its rank is the image's own.
    """

    image: Tensor
    labels: Tensor
    known: Tensor
    grid: Grid

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Spacing (z, y, x); a picture's slice is 1 mm thick."""
        return (1.0,) * (3 - self.grid.rank) + self.grid.spacing_zyx_mm

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X)."""
        return tuple(self.labels.shape)

    @cached_property
    def boxes(self) -> dict[int, Box]:
        """Bounding box of every label that occurs."""
        return _label_boxes(self.labels)

    def regions(self) -> dict[int, Region]:
        """The regions by label, background left out."""
        return {
            value: Region(self.labels[box] == value, box, self.shape)
            for value, box in self.boxes.items()
            if value
        }


def at_spacing(scene: Scene, spacing_mm: float) -> Scene:
    """The scene at a coarser resolution: blocks of voxels nearest to ``spacing_mm``.

    Args:
        scene: at full resolution.
        spacing_mm: wanted; an axis that is coarser stays as it is.
    """
    factor = tuple(
        max(1, min(round(spacing_mm / s), n))
        for s, n in zip(scene.spacing_mm, scene.shape, strict=True)
    )
    if factor == (1, 1, 1):
        return scene
    return Scene(
        _pooled(scene.image, factor),
        _pooled_labels(scene, factor),
        _pooled(scene.known.float().unsqueeze(0), factor).squeeze(0) > 0.5,
        scene.grid.pooled(factor[-scene.grid.rank :]),
    )


def pooled_region(region: Region, scene: Scene, coarse: Scene) -> Region | None:
    """A region at the resolution of another level: blocks that it fills by half; None: none.

    Args:
        region: on ``scene``'s grid.
        scene: at full resolution. coarse: the level.
    """
    factor = tuple(round(c / s) for c, s in zip(coarse.spacing_mm, scene.spacing_mm, strict=True))
    fine, box = _blocks(region.box, factor, scene.shape)
    mask = _pooled(region.spread(region.mask, fine, False).float()[None], factor)[0] >= 0.5
    return Region(mask, box, coarse.shape) if bool(mask.any()) else None


def _blocks(box: Box, factor: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Box, Box]:
    """The box widened to whole blocks of voxels, and the same in blocks."""
    starts = [part.start // f for part, f in zip(box, factor, strict=True)]
    stops = [-(-part.stop // f) for part, f in zip(box, factor, strict=True)]
    fine = tuple(
        slice(a * f, min(b * f, n))
        for a, b, f, n in zip(starts, stops, factor, shape, strict=True)
    )
    return fine, tuple(map(slice, starts, stops))


def _pooled_labels(scene: Scene, factor: tuple[int, ...]) -> Tensor:
    """The label that fills most of each block of voxels; the lower one where two fill it equally.

    Each label is pooled in its own box, so that many small regions cost no more than a few.
    """
    labels = scene.labels
    shape = [-(-n // f) for n, f in zip(labels.shape, factor, strict=True)]
    most = torch.zeros(shape, device=labels.device)
    winner = torch.zeros(shape, dtype=torch.int32, device=labels.device)
    for value, box in scene.boxes.items():
        wide, coarse = _blocks(box, factor, scene.shape)
        mask = (labels[wide] == value).float().unsqueeze(0)
        share = _pooled(mask, factor).squeeze(0)
        wins = share > most[coarse]
        winner[coarse][wins] = value
        most[coarse] = torch.where(wins, share, most[coarse])
    return winner


def _label_boxes(labels: Tensor) -> dict[int, Box]:
    """Bounding box of every label that occurs, in one pass per axis."""
    boxes: dict[int, list[slice]] = {}
    count = int(labels.max()) + 1
    for axis in range(3):
        n = labels.shape[axis]
        flat = labels.movedim(axis, 0).reshape(n, -1).long()
        slices = torch.arange(n, device=labels.device).unsqueeze(1) * count
        hits = torch.zeros(n * count, dtype=torch.bool, device=labels.device)
        hits[(flat + slices).flatten()] = True
        for value in range(count):
            where = hits.view(n, count)[:, value].nonzero()
            if len(where):
                boxes.setdefault(value, []).append(slice(int(where[0]), int(where[-1]) + 1))
    return {value: tuple(box) for value, box in boxes.items()}


def whole_regions(scene: Scene) -> list[int]:
    """The regions that do not touch the edge of the field of view, background left out."""
    beside = pad(~scene.known, (1,) * 6, value=True)
    for axis, n in enumerate(scene.shape):
        if n == 1:
            beside = beside.narrow(axis, 1, 1)
            continue
        near = beside.narrow(axis, 0, n) | beside.narrow(axis, 2, n)
        beside = near | beside.narrow(axis, 1, n)
    cut = set(torch.unique(scene.labels[beside]).tolist())
    return [int(v) for v in torch.unique(scene.labels).tolist() if v != 0 and v not in cut]


def _pooled(volume: Tensor, factor: Sequence[int]) -> Tensor:
    """Mean over blocks; the last block repeats the border."""
    extra = [-n % f for n, f in zip(volume.shape[1:], factor, strict=True)]
    if any(extra):
        sides = [side for e in reversed(extra) for side in (0, e)]
        volume = pad(volume.unsqueeze(0), sides, mode="replicate").squeeze(0)
    return avg_pool3d(volume.unsqueeze(0), tuple(factor)).squeeze(0)


def index_map(fixed: Scene, moving: Scene, affine_lps: Matrix) -> IndexMap:
    """How fixed voxels of a level land on moving voxels of a level, through an affine.

    A displacement along a fixed axis of length 1 moves nothing.
    """
    full = torch.eye(4, dtype=torch.float64)
    matrix = torch.from_numpy(fixed_to_moving_index(fixed.grid, affine_lps, moving.grid))
    first = 3 - fixed.grid.rank
    full[first:, first:] = matrix
    # Rounding keeps noise of 1e-13 from choosing, at lattice points, between one-sided slopes.
    full[:3, :3] = torch.round(full[:3, :3], decimals=6)
    full[:3, 3] = torch.round(full[:3, 3], decimals=4)
    linear = full[:3, :3]
    moves = torch.tensor([0.0 if n == 1 else 1.0 for n in fixed.shape], dtype=torch.float64)
    from_mm = linear * (moves / torch.tensor(fixed.spacing_mm, dtype=torch.float64))
    device = fixed.labels.device
    return IndexMap(*[t.float().to(device) for t in (linear, full[:3, 3], from_mm)])


def carry_down(u_mm: Tensor, coarse: Scene, fine: Scene, interfaces: Tensor) -> Tensor:
    """A coarse level's displacement on a finer level's grid, nothing leaking across interfaces.

    Args:
        u_mm: (3, z, y, x) mm, on ``coarse``.
        coarse, fine: levels of the same scene.
        interfaces: (labels, labels), w[a, b].
    """
    if coarse.shape == fine.shape:
        return u_mm
    ratio = torch.tensor(fine.spacing_mm) / torch.tensor(coarse.spacing_mm)
    return carry_nodes(u_mm, coarse.labels, fine.labels, ratio, (ratio - 1) / 2, interfaces)


LEAK = 1e-3
"""Least affinity of two labels: only a voxel without any corner of its own label takes the rest."""


def carry_nodes(
    u_mm: Tensor,
    node_labels: Tensor,
    fine_labels: Tensor,
    scale: Tensor,
    shift: Tensor,
    interfaces: Tensor,
) -> Tensor:
    """As :func:`carry_down`, from nodes at ``(index - shift) / scale`` of the fine grid."""
    device = u_mm.device
    return upsample(
        u_mm.contiguous(),
        node_labels,
        fine_labels,
        scale.float().to(device),
        shift.float().to(device),
        interfaces.clamp(min=LEAK),
    )
