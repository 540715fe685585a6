"""``match_rois``: the main path of SAMReg, from two images to matched regions of interest.

Source: SAMReg (arXiv 2410.14083), algorithm 1, with each slice encoded once.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iterreg.devices import memory_errors_named, pick_device
from iterreg.errors import GeometryError, OutputError
from iterreg.image import Image, RoiPair
from iterreg.io import as_image
from iterreg.progress import Progress, ProgressCallback, as_callback
from iterreg.samreg.align import Alignment
from iterreg.samreg.cache import RoiCache, default_folder
from iterreg.samreg.candidates import RoiSettings, find_candidates
from iterreg.samreg.everything import EverythingSettings
from iterreg.samreg.hypotheses import Choice, choose_alignment
from iterreg.samreg.matching import MatchSettings
from iterreg.samreg.pairing import RoiMatching, match_candidates
from iterreg.samreg.pictures import AXES, cut_axis, cut_pictures
from iterreg.samreg.prompted import PromptedImage
from iterreg.samreg.prompts import Prompts, as_prompts, places_of
from iterreg.samreg.segmenter import Segmenter
from iterreg.samreg.volumes import choose_volume_alignment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iterreg.image.kinds import ImageLike, PointsLike
    from iterreg.samreg.cells import Features

SEGMENTING_FRACTION = 0.98
"""Fraction of the progress bar for segmenting both images; matching gets the rest."""


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
    matcher: str = "everything",
    prompts: PointsLike | Prompts | None = None,
    device: str = "auto",
    cache: str | Path | bool = True,
    progress: ProgressCallback | bool | None = None,
) -> list[RoiPair]:
    """Find regions of interest that both images show, with a Segment Anything model.

    Args:
        fixed, moving: paths, SimpleITK images or :class:`iterreg.Image`: two volumes, or two
            pictures. Their sizes may differ.
        segmenter: a loaded model; None loads ``variant`` from ``checkpoint``.
        variant: ``mobile_sam``, ``sam_vit_b`` ... (see ``iterreg weights list``).
        checkpoint: file of the weights; None looks in the cache of weights.
        axis: z, y or x, the anatomical axis (S, P, L) that slices are cut across; None takes the
            axis along which voxels are longest, or z if they are about cubic.
        slice_range: in volumes, a partner may lie up to this many slices from the physically
            nearest one.
        threshold: least cosine similarity of a pair, -1 to 1.
        match: ``one-to-one``, ``one-to-many``, ``mutual`` or ``optimal``; see
            :class:`~iterreg.samreg.matching.MatchSettings`.
        pairs: most pairs; None returns all.
        prior: how far apart partners may lie after a rough alignment (standard deviation), as a
            fraction of the picture's diagonal; 0 compares by appearance alone.
        points: points of the grid along each side of a picture.
        matcher: ``everything`` segments everything in both images; ``prompted`` segments in the
            moving image only what the regions of the fixed image ask for.
        prompts: points in the fixed image, LPS mm, or a file of points and boxes, or
            :class:`~iterreg.samreg.prompts.Prompts`: only the smallest matched region around each
            point, and the one that fills each box, are returned. None returns all.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        cache: True or a folder stores the masks of each slice, so that a second run encodes
            nothing; False stores nothing.
        progress: as in :func:`iterreg.optimize_pair`.

    Returns:
        The pairs, the most similar first; in volumes, pairs that span several slices come before
        the others. Regions may overlap. The list is empty if no two regions are similar enough.
        Pass it to ``optimize_pair(..., roi_pairs=...)``.

    Raises:
        ImageReadError, ImageContentError, GeometryError: an input cannot be used, or a picture is
            smaller than a patch of the model.
        ConfigError, WeightsError: unknown variant or setting, or missing weights.
        DeviceError, OutOfMemoryError: the device is not available or has too little memory.
        OutputError: the cache's folder is a file.

    Source:
        SAMReg (arXiv 2410.14083), algorithm 1, eq. 3-9; ``prompted`` after PromptReg
        (arXiv 2508.01697).

    Example:
        ``segmenter`` may be any object with the methods of
        :class:`~iterreg.samreg.segmenter.Segmenter`. This one needs no weights: it segments the
        dark square of a picture.

        >>> import torch
        >>> from iterreg.samreg.segmenter import Embedding, Masks
        >>> class DarkSquare:
        ...     name, fingerprint, device = "dark square", "dark-square-1", torch.device("cpu")
        ...     def encode(self, pictures):
        ...         grey = [p[:64, :64, 0].float()[None] for p in pictures]
        ...         return [Embedding(torch.cat((g, 255 - g)), (64, 64), (1.0, 1.0)) for g in grey]
        ...     def decode(self, embedding, points_xy):
        ...         logits = 20 * (embedding.features[1] > 100).float() - 10
        ...         count = len(points_xy)
        ...         return Masks(logits.expand(count, 1, -1, -1), torch.full((count, 1), 0.95))
        >>> def picture(row, column):
        ...     data = torch.full((1, 64, 64), 200.0)
        ...     data[:, row : row + 16, column : column + 16] = 20.0
        ...     grid = Grid((64, 64), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        ...     return Image(data, grid, dtype="uint8")
        >>> from iterreg.geometry import Grid
        >>> fixed, moving = picture(16, 16), picture(24, 20)
        >>> pairs = match_rois(fixed, moving, segmenter=DarkSquare(), cache=False)
        >>> [int(mask.data.sum()) for mask in (pairs[0].fixed, pairs[0].moving)]
        [256, 256]

        With real weights, and a field fitted to the pairs::

            pairs = iterreg.match_rois("a.png", "b.png", checkpoint="mobile_sam.pt")
            run = iterreg.optimize_pair("a.png", "b.png", roi_pairs=pairs, preset="samreg")
    """
    settings = RoiSettings(
        everything=EverythingSettings(points=points),
        matching=MatchSettings(threshold, match, pairs, slice_range, prior=prior),
        axis=axis,
        matcher=matcher,
    )
    asked = None if prompts is None else as_prompts(prompts, "prompts")
    segmenter = segmenter or load(variant, checkpoint, device)
    found = find_rois(fixed, moving, segmenter, settings, cache, progress, asked)
    return list(found.pairs)


def load(variant: str, checkpoint: str | Path | None, device: str) -> Segmenter:
    """Load a variant with its weights onto a device, named as in :func:`match_rois`."""
    from iterreg.samreg.loading import load_segmenter

    path = None if checkpoint is None else Path(checkpoint)
    return load_segmenter(variant, path, pick_device(device))


def find_rois(
    fixed: ImageLike,
    moving: ImageLike,
    segmenter: Segmenter,
    settings: RoiSettings | None = None,
    cache: str | Path | bool = True,
    progress: ProgressCallback | bool | None = None,
    prompts: Prompts | None = None,
) -> RoiMatching:
    """Find pairs as :func:`match_rois` does, and return all intermediate results too.

    Args:
        fixed, moving, segmenter, cache, progress: as for :func:`match_rois`.
        settings: of all steps; None takes the defaults.
        prompts: in the fixed image.
    """
    settings, progress = settings or RoiSettings(), as_callback(progress)
    images = (as_image(fixed, "fixed").checked(), as_image(moving, "moving").checked())
    if images[0].grid.rank != images[1].grid.rank:
        raise GeometryError(
            f"{images[1].name}: expected rank {images[0].grid.rank} as {images[0].name}, "
            f"got {images[1].grid.rank}"
        )
    axis = cut_axis(*images, settings.axis)
    stacks = [cut_pictures(image, axis, settings.window) for image in images]
    store = _cache(cache)
    places = [] if prompts is None else places_of(prompts, stacks[0], images[0].name)
    pair = stacks[0], stacks[1]
    with memory_errors_named(images[0].name):
        on_fraction = _segmenting("fixed", progress)
        ours = find_candidates(pair[0], segmenter, settings, store, on_fraction, places)

    def choose(features: Sequence[Features | None], regions: Alignment) -> Choice:
        if axis is not None:
            return choose_volume_alignment(pair, (ours.features, features), regions)
        return choose_alignment(pair, segmenter, regions, store, settings.mirrored)

    with memory_errors_named(images[1].name):
        on_fraction = _segmenting("moving", progress)
        if settings.matcher == "prompted":
            image = PromptedImage(pair[1], segmenter, settings, store)
            theirs, choice = image.find(ours, choose, on_fraction)
        else:
            theirs, choice = find_candidates(pair[1], segmenter, settings, store, on_fraction), None
    progress(Progress("match", SEGMENTING_FRACTION, "matching regions"))

    def chosen(regions: Alignment) -> Choice:
        return choice or choose(theirs.features, regions)

    matching = match_candidates(ours, theirs, images, settings, chosen, places)
    return dataclasses.replace(matching, about=_about(matching, segmenter, settings))


def _segmenting(side: str, progress: ProgressCallback) -> Callable[[float], None]:
    """Turn fractions of one image's segmentation into progress events."""
    before = 0.0 if side == "fixed" else SEGMENTING_FRACTION / 2

    def on_fraction(fraction: float) -> None:
        done = before + fraction * SEGMENTING_FRACTION / 2
        progress(Progress(f"segment {side}", done, f"segmenting the {side} image"))

    return on_fraction


def fit_preset(fixed: Image, moving: Image) -> str:
    """Choose the preset for a fit: ``photograph`` for two colour pictures, else ``samreg``."""
    coloured = [bool((image.data != image.data[:1]).any()) for image in (fixed, moving)]
    return "photograph" if all(coloured) else "samreg"


def _about(found: RoiMatching, segmenter: Segmenter, settings: RoiSettings) -> dict[str, Any]:
    """Make the section on matching of ``run.json``."""
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
        "prompted": list(found.prompted),
        "best_similarity": round(best, 4) if np.isfinite(best) else None,
        "alignment": {
            "kind": found.alignment.kind,
            "affine_lps": found.alignment.affine_lps.tolist(),
            "agree": found.alignment.inlier_count,
            "of": int(found.alignment.inliers.size),
        }
        | ({} if found.choice is None else found.choice.to_dict()),
        "seconds": {k: round(v, 4) for k, v in (seconds | found.seconds).items()},
    }


def _cache(choice: str | Path | bool) -> RoiCache:
    """The cache that was asked for.

    Raises:
        OutputError: a file is in the folder's place.
    """
    if isinstance(choice, bool):
        return RoiCache(default_folder() if choice else None)
    if os.path.exists(choice) and not os.path.isdir(choice):
        raise OutputError(f"cache: expected a folder, got the file {choice}")
    return RoiCache(Path(choice))
