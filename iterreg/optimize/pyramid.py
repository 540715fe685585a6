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
from torch.nn.functional import pad

from iterreg.energy.region import Box, Region
from iterreg.geometry import TOUCHING, Grid, Matrix, block_count, fixed_to_moving_index
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


TOO_FINE = 0.8
"""Blocks of whole voxels are taken, but where they have less than this of the length wanted: a
volume of 1.5 mm at a level of 2 mm would cost 2.4 times what the level should."""


def at_spacing(scene: Scene, spacing_mm: float) -> Scene:
    """The scene at a coarser resolution: means over blocks of ``spacing_mm``.

    Blocks are whole voxels where that does not make the level much finer, and dearer, than its
    spacing says.

    Args:
        scene: at full resolution.
        spacing_mm: wanted; an axis that is coarser stays as it is.
    """
    factor = tuple(
        _block_length(spacing_mm / s, n) for s, n in zip(scene.spacing_mm, scene.shape, strict=True)
    )
    if factor == (1.0, 1.0, 1.0):
        return scene
    shares = _block_shares(factor, scene)
    return Scene(
        _pooled(scene.image, shares),
        _pooled_labels(scene, factor, shares),
        _pooled(scene.known.float().unsqueeze(0), shares).squeeze(0) > 0.5,
        scene.grid.pooled(factor[-scene.grid.rank :]),
    )


def pooled_region(region: Region, scene: Scene, coarse: Scene) -> Region | None:
    """A region at the resolution of another level: blocks that it fills by half; None: none.

    Args:
        region: on ``scene``'s grid.
        scene: at full resolution. coarse: the level.
    """
    factor = tuple(c / s for c, s in zip(coarse.spacing_mm, scene.spacing_mm, strict=True))
    box = _blocks(region.box, factor, coarse.shape)
    shares = _within(_block_shares(factor, scene), box, region.box)
    mask = _pooled(region.mask.float()[None], shares)[0] >= 0.5
    return Region(mask, box, coarse.shape) if bool(mask.any()) else None


def _block_length(wanted: float, length: int) -> float:
    """Voxels of a block along an axis of so many voxels."""
    whole = max(1, round(wanted))
    return float(min(wanted if whole < TOO_FINE * wanted else whole, length))


def _block_shares(factor: Sequence[float], scene: Scene) -> list[Tensor]:
    """Per axis (blocks, voxels), what each voxel is of each block; the last repeats the border."""
    tables = []
    for f, n in zip(factor, scene.shape, strict=True):
        blocks = block_count(n, f)
        starts = (torch.arange(blocks, dtype=torch.float64) * f).unsqueeze(1)
        voxels = torch.arange(n, dtype=torch.float64)
        ends = voxels + 1
        ends[-1] = blocks * f
        overlap = torch.minimum(starts + f, ends) - torch.maximum(starts, voxels)
        tables.append((overlap.clamp(min=0) / f).float().to(scene.labels.device))
    return tables


def _blocks(box: Box, factor: Sequence[float], shape: Sequence[int]) -> Box:
    """The blocks that a box of voxels lies in."""
    return tuple(
        slice(int(part.start / f + TOUCHING), min(n, block_count(part.stop, f)))
        for part, f, n in zip(box, factor, shape, strict=True)
    )


def _within(shares: Sequence[Tensor], blocks: Box, voxels: Box) -> list[Tensor]:
    return [table[b, v] for table, b, v in zip(shares, blocks, voxels, strict=True)]


def _pooled_labels(scene: Scene, factor: Sequence[float], shares: Sequence[Tensor]) -> Tensor:
    """The label that fills most of each block of voxels; the lower one where two fill it equally.

    Each label is pooled in its own box, so that many small regions cost no more than a few.
    """
    labels = scene.labels
    most = torch.zeros([len(table) for table in shares], device=labels.device)
    winner = torch.zeros_like(most, dtype=torch.int32)
    for value, box in scene.boxes.items():
        coarse = _blocks(box, factor, most.shape)
        mask = (labels[box] == value).float().unsqueeze(0)
        share = _pooled(mask, _within(shares, coarse, box)).squeeze(0)
        wins = share > most[coarse] + TOUCHING
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


def _pooled(volume: Tensor, shares: Sequence[Tensor]) -> Tensor:
    """(C, Z, Y, X) averaged over blocks, by :func:`_block_shares`."""
    z, y, x = shares
    volume = (z @ volume.flatten(2)).unflatten(2, volume.shape[2:])
    return y @ volume @ x.T


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
