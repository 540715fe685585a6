"""The numbers of a CT and Hounsfield units: many files store HU + 1024 or HU + 1000, unsigned.

Presets give some settings in HU. They follow the image: its voxels stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from iterreg.config import Config
from iterreg.errors import SegmentationError
from iterreg.image import Image
from iterreg.regions._ct_intensity import denoised, downsample
from iterreg.regions.field_of_view import field_of_view

AIR_HU, TISSUE_HU = -1000.0, 55.0
"""Air, and the soft tissue that the segmenter finds (muscle and organs: 50 to 60 HU)."""

NEARER_TO_ZERO_HU = AIR_HU / 2
"""Air above this is nearer to 0 than to -1000: the numbers are not HU."""

LEAST_SHARE_OF_AIR = 1e-3
"""An image with more voxels than this below ``NEARER_TO_ZERO_HU`` has air where HU have it; fewer
are streaks."""

TISSUE_ABOVE_AIR_HU = (850.0, 1250.0)
"""Soft tissue lies so far above air in a CT (1050 HU), whatever was added. Numbers of another scale
(8 bits, a cone beam's) are left alone."""

USUAL_OFFSETS = (1000.0, 1024.0)
SURE_TO = 40.0
"""An offset this close to a usual one is that one: contrast agent and noise shift the estimate."""


def hounsfield_offset(image: Image) -> float:
    """Find what was added to the Hounsfield units of a CT; in doubt nothing was.

    Args:
        image: any.

    Returns:
        :func:`ct_offset`; 0 also for an image that is not surely a CT.

    Example:
        >>> from iterreg.geometry import Grid
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((30, 40, 40), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), axes)
        >>> ct = 10 * torch.randn((1, 30, 40, 40), generator=torch.Generator().manual_seed(0))
        >>> ct[:, :, 8:32, 5:35] += 1050.0
        >>> ct -= 1000.0
        >>> hounsfield_offset(Image(ct, grid)), hounsfield_offset(Image(ct + 1024, grid))
        (0.0, 1024.0)
    """
    return ct_offset(image) or 0.0


def ct_offset(image: Image) -> float | None:
    """Tell whether an image is a CT, and what was added to its Hounsfield units.

    A CT whose numbers have an offset has to be of rank 3: its air and soft tissue are found as the
    thorax segmenter finds them. One in HU reaches from air to tissue.

    Args:
        image: any.

    Returns:
        0 for a CT in HU; None for an image that is not surely a CT.

    Example:
        >>> from iterreg.geometry import Grid
        >>> grid = Grid((2, 2), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> ct_offset(Image(torch.tensor([[[-1000.0, 0.0], [60.0, 900.0]]]), grid))
        0.0
        >>> print(ct_offset(Image(torch.tensor([[[0.0, 0.0], [60.0, 900.0]]]), grid)))
        None
    """
    if image.data.shape[0] != 1:
        return None
    if image.grid.rank == 3 and (added := _added(image)):
        return added
    low, high = float(image.data.min()), float(image.data.max())
    return 0.0 if low <= NEARER_TO_ZERO_HU and high >= TISSUE_HU else None


def _added(image: Image) -> float:
    """What was added to the HU of a volume; 0 if it is not surely a CT with other numbers."""
    fov = field_of_view(image).mask
    air = (image.data[0] < NEARER_TO_ZERO_HU) & fov
    if int(air.count_nonzero()) > LEAST_SHARE_OF_AIR * fov.numel():
        return 0.0
    canonical, order = image.to_canonical()
    fov = order.apply(fov)
    data = torch.where(fov, canonical.data[0], 0.0)
    try:
        ct = denoised(downsample(data, fov, canonical.grid.spacing_zyx_mm, image.name))
    except SegmentationError:
        return 0.0
    low, high = TISSUE_ABOVE_AIR_HU
    if not low <= ct.tissue - ct.air <= high or ct.air <= NEARER_TO_ZERO_HU:
        return 0.0
    found = ((ct.air - AIR_HU) + (ct.tissue - TISSUE_HU)) / 2
    usual = min(USUAL_OFFSETS, key=lambda offset: abs(offset - found))
    return usual if abs(usual - found) <= SURE_TO else float(round(found))


@dataclass(frozen=True)
class Numbers:
    """How the numbers of a pair of images follow from Hounsfield units.

    Args:
        fixed, moving: what was added to HU; 0 if nothing, or if no setting is in HU.
        notes: what the user should know.
    """

    fixed: float = 0.0
    moving: float = 0.0
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config, fixed: Image, moving: Image) -> Numbers:
        """Find them.

        Args:
            config: tells which settings are in HU.
            fixed, moving: the pair.
        """
        if not config.hounsfield:
            return cls()
        images = (fixed, moving)
        offsets = [hounsfield_offset(image) for image in images]
        notes = tuple(
            f"{image.name}: its numbers are taken as Hounsfield units {offset:+g}"
            for image, offset in zip(images, offsets, strict=True)
            if offset
        )
        return cls(offsets[0], offsets[1], notes)

    def with_fill(self, config: Config) -> Config:
        """The configuration with the fill in the moving image's own numbers."""
        if not self.moving or config.fill is None or "fill" not in config.hounsfield:
            return config
        left = tuple(setting for setting in config.hounsfield if setting != "fill")
        return replace(config, fill=config.fill + self.moving, hounsfield=left)


def clip_limits(config: Config, offset: float) -> tuple[float, ...]:
    """``similarity.intensity_range`` in an image's own numbers.

    Args:
        config: of the registration.
        offset: of :func:`hounsfield_offset`.

    Example:
        >>> from iterreg.config import load_config
        >>> clip_limits(load_config("thorax"), 1024.0)
        (24.0, 1524.0)
        >>> clip_limits(load_config("thorax", {"similarity.intensity_range": [0, 9]}), 1024.0)
        (0.0, 9.0)
    """
    limits = config.similarity.intensity_range
    if "similarity.intensity_range" not in config.hounsfield:
        return limits
    return tuple(limit + offset for limit in limits)
