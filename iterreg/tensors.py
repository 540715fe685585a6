"""The pair as the algorithm takes it: tensors on the device, axes in canonical order, of rank 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iterreg.config import Config
from iterreg.displacement import Transform, resample_transform
from iterreg.energy.overlap import RegionPair
from iterreg.energy.region import Region
from iterreg.features import normalise_intensities
from iterreg.geometry import canonical
from iterreg.image import Image, LabelMap, Mask, RoiPair
from iterreg.inputs import FieldsOfView, Inputs
from iterreg.optimize.pair import Guidance, Pair
from iterreg.optimize.side import Side
from iterreg.partition import Regions, interfaces_of, values_named
from iterreg.regions.field_of_view import field_of_view
from iterreg.regions.hounsfield import Numbers, clip_limits


def pair_of(
    config: Config,
    inputs: Inputs,
    views: FieldsOfView,
    numbers: Numbers,
    regions: Regions,
    device: torch.device,
) -> Pair:
    """The pair as tensors on the device.

    Args:
        config: resolved.
        inputs: in the preset's lengths.
        views: both fields of view.
        numbers: what was added to both images' Hounsfield units.
        regions: of both images.
        device: of the tensors.
    """
    guidance = Guidance(
        rois=_roi_regions(inputs.roi_pairs, device),
        by_labels=not inputs.roi_pairs or inputs.labels is not None,
        landmarks=inputs.landmarks,
    )
    limits = clip_limits(config, numbers.fixed), clip_limits(config, numbers.moving)
    grey = len(inputs.fixed.data) != len(inputs.moving.data)
    fixed, moving = (
        image.data.mean(0, keepdim=True) if grey else image.data
        for image in (inputs.fixed, inputs.moving)
    )
    labels = regions.compact(regions.fixed), regions.compact(regions.moving)
    return Pair(
        _side(limits[0], fixed.to(device), inputs.fixed, labels[0], views.fixed),
        _side(limits[1], moving.to(device), inputs.moving, labels[1], views.moving),
        interfaces_of(regions, config.smoothness).to(device),
        guidance,
        values_named("rigid", config.rigid, regions),
        values_named("preserve_volume", config.preserve_volume, regions),
    )


def _side(
    limits: tuple[float, ...], data: Tensor, image: Image, labels: Tensor, fov: Tensor
) -> Side:
    """One image in canonical axis order, of rank 3, on the device of its data."""
    grid, order = canonical(image.grid)
    device = data.device
    data, labels, fov = (order.apply(t.to(device)) for t in (data, labels, fov))
    intensities = normalise_intensities(data, limits)
    if grid.rank == 2:
        intensities, labels, fov = (t.unsqueeze(-3) for t in (intensities, labels, fov))
    side = Side(intensities, labels, fov, grid)
    measured = order.apply(field_of_view(image).mask.to(device)).reshape(side.shape)
    return side if bool(measured.all()) else side.continued_beyond(measured)


def _roi_regions(pairs: Sequence[RoiPair], device: torch.device) -> tuple[RegionPair, ...]:
    """ROI pairs at full resolution, in canonical axis order, of rank 3."""
    return tuple(
        RegionPair(_region(pair.fixed, device), _region(pair.moving, device), pair.similarity, True)
        for pair in pairs
    )


def _region(roi: Mask | LabelMap, device: torch.device) -> Region:
    mask = canonical(roi.grid)[1].apply(roi.data != 0)
    region = Region.of((mask.unsqueeze(0) if mask.ndim == 2 else mask).to(device))
    assert region is not None, "a ROI pair refuses empty masks"
    return region


def on_grid_of(side: Side, given: Transform | None) -> Transform | None:
    """The user's transform with its field, if it has one, on a side's grid.

    Args:
        side: of the pair.
        given: in the preset's lengths; None for none.
    """
    if given is None or not bool(given.field.vox.any()):
        return given
    return resample_transform(given, side.grid)
