"""``match_rois``: the main path of SAMReg, from two images to matched regions of interest.

Source: SAMReg (arXiv 2410.14083), algorithm 1, with each slice encoded once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iterreg.devices import memory_errors_named, pick_device
from iterreg.errors import GeometryError
from iterreg.image import Image, RoiPair
from iterreg.io import as_image
from iterreg.samreg.cache import RoiCache, default_folder
from iterreg.samreg.candidates import RoiSettings, candidates
from iterreg.samreg.everything import EverythingSettings
from iterreg.samreg.matching import MatchSettings
from iterreg.samreg.pairing import RoiMatching, match_candidates
from iterreg.samreg.pictures import AXES, cut_axis, cut_pictures
from iterreg.samreg.segmenter import Segmenter

if TYPE_CHECKING:
    import SimpleITK as sitk

    ImageLike = str | Path | sitk.Image | Image

Progress = Callable[[str, float], None]
"""Called with a stage in words and the share of the whole that is done, 0 to 1."""

MATCHING_SHARE = 0.98
"""Of the progress that encoding and decoding have."""


def match_rois(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    segmenter: Segmenter | None = None,
    variant: str = "mobile_sam",
    checkpoint: str | Path | None = None,
    axis: str | None = None,
    slice_range: int = 11,
    threshold: float = 0.8,
    match: str = "one-to-one",
    pairs: int | None = None,
    prior: float = 0.1,
    points: int = 16,
    device: str = "auto",
    cache: str | Path | bool = True,
    progress: Progress | None = None,
) -> list[RoiPair]:
    """Find regions of interest that both images show, with a Segment Anything model.

    Args:
        fixed, moving: paths, SimpleITK images or :class:`iterreg.Image`; both volumes, or both
            pictures, whose sizes may differ.
        segmenter: a model that is loaded already; None loads ``variant`` from ``checkpoint``.
        variant: ``mobile_sam``, ``sam_vit_b`` ... (see ``iterreg weights list``).
        checkpoint: the weights' file; None looks into the cache of weights.
        axis: z, y or x, the anatomical axis (S, P, L) that slices are cut across; None takes the
            axis of the thickest voxels, z where they are alike.
        slice_range: in volumes, slices on either side of the physically nearest one in which a
            partner may lie.
        threshold: least cosine similarity of a pair, -1 to 1.
        match: ``one-to-one``, ``one-to-many``, ``mutual`` or ``optimal``.
        pairs: most pairs, in the order of the result; None: all.
        prior: how far partners may lie apart once the images are roughly aligned, as a share of
            the picture's diagonal; 0: appearance alone.
        points: of the grid of points, along each side of a picture.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        cache: whether to keep what was found in each slice, so that a second run encodes nothing;
            or the folder for it.
        progress: called with a stage and the share that is done, 0 to 1.

    Returns:
        The pairs, the most similar first; in volumes those that were found in several slices come
        before the others. An empty list where no two regions are similar enough. They may overlap.
        ``optimize_pair(..., roi_pairs=...)`` takes them.

    Raises:
        ImageReadError, ImageContentError, GeometryError: bad input, named; a picture smaller than
            a patch.
        ConfigError, WeightsError: an unknown variant or setting, weights that are not there.
        DeviceError, OutOfMemoryError: the machine.

    Source:
        SAMReg (arXiv 2410.14083), algorithm 1, eq. 3-9.
    """
    settings = RoiSettings(
        everything=EverythingSettings(points=points),
        matching=MatchSettings(threshold, match, pairs, slice_range, prior=prior),
        axis=axis,
    )
    segmenter = segmenter or load(variant, checkpoint, device)
    return list(find_rois(fixed, moving, segmenter, settings, cache, progress).pairs)


def load(variant: str, checkpoint: str | Path | None, device: str) -> Segmenter:
    """A variant with its weights, on the device asked for."""
    from iterreg.samreg.loading import load_segmenter

    path = None if checkpoint is None else Path(checkpoint)
    return load_segmenter(variant, path, pick_device(device))


def find_rois(
    fixed: ImageLike,
    moving: ImageLike,
    segmenter: Segmenter,
    settings: RoiSettings | None = None,
    cache: str | Path | bool = True,
    progress: Progress | None = None,
) -> RoiMatching:
    """As :func:`match_rois`, with everything that was seen on the way."""
    settings, tell = settings or RoiSettings(), progress or (lambda stage, share: None)
    images = (as_image(fixed, "fixed").checked(), as_image(moving, "moving").checked())
    if images[0].grid.rank != images[1].grid.rank:
        raise GeometryError(
            f"{images[1].name}: expected rank {images[0].grid.rank} as {images[0].name}, "
            f"got {images[1].grid.rank}"
        )
    axis = cut_axis(*images, settings.axis)
    stacks = [cut_pictures(image, axis, settings.window) for image in images]
    store = _cache(cache)
    found = []
    for side, image, stack in zip(("fixed", "moving"), images, stacks, strict=True):
        begun = 0.0 if side == "fixed" else MATCHING_SHARE / 2

        def step(share: float, begun: float = begun, side: str = side) -> None:
            tell(f"segmenting the {side} image", begun + share * MATCHING_SHARE / 2)

        with memory_errors_named(image.name):
            found.append(candidates(stack, segmenter, settings, store, step))
    tell("matching", MATCHING_SHARE)
    matching = match_candidates(found[0], found[1], images, settings)
    return dataclasses.replace(matching, about=_about(matching, segmenter, settings))


def fit_preset(fixed: Image, moving: Image) -> str:
    """The preset for a fit: ``photograph`` for two pictures in colour, else ``samreg``."""
    coloured = [bool((image.data != image.data[:1]).any()) for image in (fixed, moving)]
    return "photograph" if all(coloured) else "samreg"


def _about(found: RoiMatching, segmenter: Segmenter, settings: RoiSettings) -> dict[str, Any]:
    """What ``run.json`` says of the matching."""
    sides = (found.fixed, found.moving)
    seconds = {name: sum(s.seconds[name] for s in sides) for name in found.fixed.seconds}
    best = found.best_similarity
    return {
        "segmenter": segmenter.name,
        "fingerprint": segmenter.fingerprint,
        "device": str(segmenter.device),
        "settings": dataclasses.asdict(settings),
        "axis": None if found.fixed.stack.axis is None else AXES[found.fixed.stack.axis],
        "fixed": found.fixed.counts | {"window": dataclasses.asdict(found.fixed.stack.window)},
        "moving": found.moving.counts | {"window": dataclasses.asdict(found.moving.stack.window)},
        "matches": sum(len(chain) for chain in found.chains),
        "pairs": len(found.pairs),
        "best_similarity": round(best, 4) if np.isfinite(best) else None,
        "alignment": {
            "kind": found.alignment.kind,
            "affine_lps": found.alignment.affine_lps.tolist(),
            "agree": int(found.alignment.inliers.sum()),
            "of": int(found.alignment.inliers.size),
        },
        "seconds": {k: round(v, 4) for k, v in (seconds | found.seconds).items()},
    }


def _cache(wanted: str | Path | bool) -> RoiCache:
    if isinstance(wanted, bool):
        return RoiCache(default_folder() if wanted else None)
    return RoiCache(Path(wanted))
