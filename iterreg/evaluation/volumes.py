"""What a region's volume tells: whether the whole of it is mapped onto its partner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from iterreg.evaluation.values import RegionMeasures
from iterreg.image import LabelMap
from iterreg.regions.field_of_view import Fovs

MOST_UNLIKE = 1.5
"""As mapped, a region has its partner's volume to this factor. Right pairs keep to 0.84 to 1.01 of
it: two people's hippocampi, a heart in two phases, and bones of a chest at 4 mm."""

LEAST_VOXELS = 30
"""A smaller region's volume is chance."""


def volume_notes(
    regions: Sequence[RegionMeasures], labels: tuple[LabelMap, LabelMap], fovs: Fovs
) -> Iterator[str]:
    """Name the regions that are mapped onto much less or much more than their partner.

    Args:
        regions: measured.
        labels: fixed and moving. A region that the edge of its image or of its view cuts is left
            out: nobody knows its volume.
        fovs: the fields of view, fixed and moving, or None.
    """
    for region in regions:
        if min(region.voxels_fixed, region.voxels_moving) < LEAST_VOXELS:
            continue
        share = region.volume_change / region.volume_partner
        if 1 / MOST_UNLIKE <= share <= MOST_UNLIKE or share != share:
            continue
        pairs = zip(labels, fovs, strict=True)
        if not any(_is_cut(image.data == region.value, fov) for image, fov in pairs):
            where = "onto a part of its partner" if share < 1 else "beyond its partner"
            yield (
                f"{region.name}: mapped, it has {share:.2f} times its partner's volume: "
                f"it is mapped {where}"
            )


def _is_cut(region: torch.Tensor, fov: torch.Tensor | None) -> bool:
    """Whether a region touches the edge of its image or leaves its view."""
    if fov is not None and bool((region & ~fov.to(region.device)).any()):
        return True
    ends = [
        region.select(axis, end).any()
        for axis, n in enumerate(region.shape)
        if n > 1
        for end in (0, -1)
    ]
    return any(map(bool, ends))
