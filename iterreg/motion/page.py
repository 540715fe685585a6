"""``motion.html``: the moving picture of a series on one page that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.atomic import OutputFolder, write_text
from iterreg.displacement import warp_image
from iterreg.geometry import Grid, canonical
from iterreg.image import Image, LabelMap
from iterreg.motion.register import Motion
from iterreg.report.render import render

TALLEST_PX = 260
QUALITY = 75
PLANES = ("axial", "coronal", "sagittal")
OUTLINE = (255, 154, 61)

Pixels = NDArray[np.uint8]


def write_page(
    folder: OutputFolder,
    motion: Motion,
    carried: Sequence[LabelMap | None],
    tables: Mapping[str, Any],
    curves: Mapping[str, bool],
) -> None:
    """Write the page.

    Args:
        folder: gets ``motion.html``; the plots of the curves are there.
        motion: the result.
        carried: the labels of each phase, outlined in the picture.
        tables: of ``motion.json``.
        curves: which plots there are.
    """
    images = [phase.image for phase in motion.phases]
    window = _window(motion.fixed.image)
    at = _centre(motion)
    seen = [
        _planes(image, labels, window, at) for image, labels in zip(images, carried, strict=True)
    ]
    still = [
        _planes(warp_image(image, transform, float(image.data.min())), None, window, at)
        for image, transform in zip(images, motion.transforms, strict=True)
    ]
    frames = {"seen": seen, "still": still}
    plots = {
        name: _data(folder.path(f"{name}.png").read_bytes(), "png")
        for name in curves
        if curves[name]
    }
    facts = {"tables": tables, "frames": json.dumps(frames), "planes": PLANES, "plots": plots}
    write_text(render("iterreg.motion", "motion", facts), folder.path("motion.html"))


def _centre(motion: Motion) -> tuple[int, int, int]:
    """The planes with most motion, on the canonical grid."""
    grid = motion.fixed.image.grid
    moved = torch.zeros(grid.shape_zyx)
    for transform in motion.transforms:
        moved = torch.maximum(moved, transform.field.vox.square().sum(0))
    turned = canonical(grid)[1].apply(moved)
    sums = [turned.mean(dim=[b for b in range(3) if b != a]) for a in range(3)]
    z, y, x = (int(_middled(s).argmax()) for s in sums)
    return z, y, x


def _middled(sums: torch.Tensor) -> torch.Tensor:
    """With a slight liking for the middle, which decides where nothing moves."""
    n = len(sums)
    hill = 1 - 0.5 * torch.linspace(-1, 1, n).abs() if n > 1 else torch.ones(1)
    return (sums + 1e-6) * hill


def _window(image: Image) -> tuple[float, float]:
    low, high = np.percentile(image.data[0].numpy()[:: 1 + image.data.shape[1] // 64], (1, 99))
    return float(low), float(max(high, low + 1e-6))


def _planes(
    image: Image, labels: LabelMap | None, window: tuple[float, float], at: tuple[int, int, int]
) -> list[str]:
    """One picture for each plane through a point, as data that a page can hold."""
    grid, order = canonical(image.grid)
    values = order.apply(image.data[0]).numpy()
    grey = ((values - window[0]) / (window[1] - window[0])).clip(0, 1) * 255
    regions = None if labels is None else order.apply(labels.data).numpy()
    pictures = []
    for axis in range(3):
        pixels = np.repeat(_facing(grey.take(at[axis], axis), axis)[..., None], 3, -1)
        if regions is not None:
            pixels[_edges(_facing(regions.take(at[axis], axis), axis))] = OUTLINE
        pictures.append(_data(_jpeg(pixels.astype(np.uint8), grid, axis), "jpeg"))
    return pictures


def _facing(plane: Any, axis: int) -> Any:
    """A plane of axes nearest to (S, P, L), rows downwards: the head goes up."""
    return plane if axis == 0 else plane[::-1]


def _edges(labels: Any) -> Any:
    edges = np.zeros(labels.shape, bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges


def _jpeg(pixels: Pixels, grid: Grid, axis: int) -> bytes:
    from PIL import Image as Picture

    spacing = [mm for k, mm in enumerate(grid.spacing_zyx_mm) if k != axis]
    height, width = (n * mm for n, mm in zip(pixels.shape[:2], spacing, strict=True))
    scale = TALLEST_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    kept = io.BytesIO()
    picture = Picture.fromarray(pixels).resize(size, Picture.Resampling.BILINEAR)
    picture.save(kept, "JPEG", quality=QUALITY)
    return kept.getvalue()


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
