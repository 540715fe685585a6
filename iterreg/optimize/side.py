"""One image of the pair at one resolution: intensities, labels and field of view.

Inside the optimiser everything has rank 3. A picture is a volume of one slice, whose first axis has
no gradient and no motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from iterreg.energy.region import Region
from iterreg.features import FeatureMaps
from iterreg.geometry import TOUCHING, Grid, block_count, thinnest_mm
from iterreg.kernels import block_majority
from iterreg.labels import label_counts
from iterreg.neighbourhood import Box, continued, label_boxes, pooled
from iterreg.to_device import on_device

TOO_FINE = 0.8
"""Whole-voxel blocks shorter than this share of the wanted spacing are not used: a 1.5 mm volume at
a level of 2 mm would cost 2.4 times what that level should."""

CONTINUED_MM = 12.0
"""A feature of a voxel at the edge of the view looks no farther beyond it."""

MOST_DOUBLINGS = 6

KEPT_VOXELS = 500_000
"""A coarser side of at most so many voxels is kept: it takes a few MB."""


@dataclass(frozen=True)
class Side:
    """One image with its regions, at one resolution.

    Args:
        image: (C, Z, Y, X) normalised intensities.
        labels: (Z, Y, X) int32 compact labels, 0 ... n - 1 with 0 the background.
        fov: (Z, Y, X) bool, the field of view inside the user's mask.
        grid: of the voxels; its rank is the image's own.
        features: of a network; None unless a similarity asks for them.
    """

    image: Tensor
    labels: Tensor
    fov: Tensor
    grid: Grid
    features: FeatureMaps | None = None

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Spacing (z, y, x); a picture's slice is 1 mm thick."""
        return (1.0,) * (3 - self.grid.rank) + self.grid.spacing_zyx_mm

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X)."""
        return tuple(self.labels.shape)

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.labels.device

    @property
    def least_spacing_mm(self) -> float:
        """The least spacing over the axes that are longer than one voxel; of all if none is."""
        return thinnest_mm(self.spacing_mm, self.shape)

    @cached_property
    def boxes(self) -> dict[int, Box]:
        """Bounding box of every label that occurs."""
        return label_boxes(self.labels)

    def region(self, value: int) -> Region:
        """The region of a label that occurs."""
        box = self.boxes[value]
        return Region(self.labels[box] == value, box, self.shape)

    @cached_property
    def uncut_regions(self) -> set[int]:
        """Labels of the regions that do not touch the edge of the field of view."""
        at_edge = pad(~self.fov, (1,) * 6, value=True)
        for axis, n in enumerate(self.shape):
            if n == 1:
                at_edge = at_edge.narrow(axis, 1, 1)
                continue
            near = at_edge.narrow(axis, 0, n) | at_edge.narrow(axis, 2, n)
            at_edge = near | at_edge.narrow(axis, 1, n)
        cut = label_counts(self.labels[at_edge]).keys()
        return {value for value in self.boxes if value != 0 and value not in cut}

    def continued_beyond(self, measured: Tensor) -> Side:
        """This side with the image carried on beyond what the scanner measured.

        Features and block averages near the edge of the view look beyond it. What is there, be it
        padding or the dark of a cone beam, is no structure of the body.

        Args:
            measured: (Z, Y, X) bool.
        """
        radii: list[list[int]] = []
        reach_mm = 0.0
        while reach_mm < CONTINUED_MM and len(radii) < MOST_DOUBLINGS:
            wide_mm = self.least_spacing_mm * 2 ** len(radii)
            radii.append(
                [
                    0 if n == 1 else min(round(wide_mm / s), n - 1)
                    for n, s in zip(self.shape, self.spacing_mm, strict=True)
                ]
            )
            reach_mm += wide_mm
        return replace(self, image=continued(self.image, measured, radii))

    def at(self, spacing_mm: float) -> Side:
        """This side at a coarser resolution: means over blocks of ``spacing_mm``.

        Blocks consist of whole voxels, unless that makes the level much finer, and so more
        expensive, than its spacing says.

        Args:
            spacing_mm: wanted; an axis that is coarser stays as it is.
        """
        factor = tuple(
            _block_length(spacing_mm / s, n)
            for s, n in zip(self.spacing_mm, self.shape, strict=True)
        )
        if factor == (1.0, 1.0, 1.0):
            return self
        known = self._coarse.get(factor)
        if known is None:
            known = self._pooled(factor)
            if known.labels.numel() <= KEPT_VOXELS:
                self._coarse[factor] = known
        return known

    @cached_property
    def kept(self) -> dict[Any, Tensor]:
        """What energies computed of the image: start and check compare the same one repeatedly."""
        return {}

    @cached_property
    def _coarse(self) -> dict[tuple[float, ...], Side]:
        """Coarser sides by their blocks: the start, the search and the check ask for the same."""
        return {}

    def _pooled(self, factor: tuple[float, ...]) -> Side:
        """This side at a coarser resolution, one value for each block."""
        shares = self._block_shares(factor)
        tables = [on_device(table, self.device) for table in shares]
        return Side(
            pooled(self.image, tables),
            block_majority(self.labels, [_compact(table, self.device) for table in shares]),
            pooled(self.fov.float().unsqueeze(0), tables).squeeze(0) > 0.5,
            self.grid.pooled(factor[-self.grid.rank :]),
            None if self.features is None else self.features.pooled(factor),
        )

    def pooled_region(self, region: Region, coarse: Side) -> Region | None:
        """A region of this side on a coarser one: the blocks that it fills at least by half.

        Args:
            region: on this side's grid.
            coarse: this side at another resolution.

        Returns:
            None if it fills no block by half.
        """
        factor = tuple(c / s for c, s in zip(coarse.spacing_mm, self.spacing_mm, strict=True))
        box = _blocks(region.box, factor, coarse.shape)
        shares = _within(self._block_shares(factor), box, region.box)
        tables = [on_device(table, self.device) for table in shares]
        mask = pooled(region.mask.float()[None], tables)[0] >= 0.5
        return Region(mask, box, coarse.shape) if bool(mask.any()) else None

    def _block_shares(self, factor: Sequence[float]) -> list[Tensor]:
        """Per axis (blocks, voxels): the share of each block that each voxel fills, on the CPU.

        The last voxel stands for the part of the last block that lies beyond the image.
        """
        tables = []
        for f, n in zip(factor, self.shape, strict=True):
            blocks = block_count(n, f)
            starts = (torch.arange(blocks, dtype=torch.float64) * f).unsqueeze(1)
            voxels = torch.arange(n, dtype=torch.float64)
            ends = voxels + 1
            ends[-1] = blocks * f
            overlap = torch.minimum(starts + f, ends) - torch.maximum(starts, voxels)
            tables.append((overlap.clamp(min=0) / f).float())
        return tables


def _block_length(wanted: float, length: int) -> float:
    """Voxels per block, along an axis of ``length`` voxels."""
    whole = max(1, round(wanted))
    return float(min(wanted if whole < TOO_FINE * wanted else whole, length))


def _blocks(box: Box, factor: Sequence[float], shape: Sequence[int]) -> Box:
    """The blocks that a box of voxels lies in."""
    return tuple(
        slice(int(part.start / f + TOUCHING), min(n, block_count(part.stop, f)))
        for part, f, n in zip(box, factor, shape, strict=True)
    )


def _compact(table: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first voxel of each block (blocks,), and the shares that it and the next ones fill."""
    first = (table > 0).byte().argmax(1)
    width = int((table > 0).sum(1).max())
    padded = torch.cat((table, table.new_zeros(len(table), width)), 1)
    at = first.unsqueeze(1) + torch.arange(width)
    return on_device(first.int(), device), on_device(padded.gather(1, at), device)


def _within(shares: Sequence[Tensor], blocks: Box, voxels: Box) -> list[Tensor]:
    return [table[b, v] for table, b, v in zip(shares, blocks, voxels, strict=True)]
