"""The transforms of ``iterreg apply``, and points that go through them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iterreg.formats.loaded import Loaded
    from iterreg.geometry import Grid, Points
    from iterreg.image import LabelMap
    from iterreg.inverse import InversePoints


def load_chain(options: dict[str, Any], reference: Grid | None = None) -> list[Loaded]:
    """Read every ``--transform``, in the order given.

    Args:
        options: of the command.
        reference: the grid of ``--reference``, if it is the fixed image.

    Raises:
        TransformError: a file cannot be used, or the ranks differ.
    """
    from iterreg.formats.chains import load_links
    from iterreg.formats.types import Sides
    from iterreg.io import grid_of_file

    source = None if options["source"] is None else grid_of_file(options["source"])
    sides = Sides() if options["inverse"] else Sides(reference, source)
    return load_links(options["transforms"], sides)


def apply_to_points(options: dict[str, Any]) -> str:
    """Map the points of ``--points``, write them, and say how many there were."""
    from iterreg.formats.itk_objects import chain, map_points
    from iterreg.io import read_image, read_points, series_of, write_points
    from iterreg.landmarks import check_inside, require_rank

    points = read_points(options["points"])
    grid = None
    if options["reference"] is not None:
        grid = read_image(options["reference"], series_of("reference")).grid
    links = load_chain(options, grid)
    require_rank(points, links[0].rank, "the transform")
    if grid is not None:
        check_inside(points, grid, str(options["reference"]))
    elif not options["inverse"] and links[0].field is not None:
        check_inside(points, links[0].field.grid, "the grid of the transform")
    if not options["inverse"]:
        write_points(map_points(chain(links), points), options["out"])
        return f"{len(points)} points, fixed to moving"
    inverted = _inverted(options, links, points, grid)
    statuses = [s.name.lower() for s in inverted.status]
    columns = {"status": statuses, "residual_mm": [f"{r:.4f}" for r in inverted.residual_mm]}
    write_points(inverted.points, options["out"], columns)
    counts = ", ".join(f"{count} {name}" for name, count in Counter(statuses).items())
    return f"{len(points)} points, moving to fixed: {counts}"


def _inverted(
    options: dict[str, Any], links: Sequence[Loaded], points: Points, grid: Grid | None
) -> InversePoints:
    """Take points back through one transform after the other, the last of them first.

    A point keeps the first status that is not ok. Its residual is the distance between the point
    and where the whole chain takes the answer.
    """
    import numpy as np

    from iterreg.formats.itk_objects import chain, map_points
    from iterreg.inverse import InversePoints, InverseStatus, invert_linear, invert_points

    at, status = points, (InverseStatus.OK,) * len(points)
    for link, path in reversed([*zip(links, options["transforms"], strict=True)]):
        if link.is_linear:
            found = invert_linear(link.affine_lps, at)
        else:
            transform = link.on(grid)
            regions = regions_of(options, path, transform.grid, grid)
            found = invert_points(transform, at, *regions)
        pairs = zip(status, found.status, strict=True)
        status = tuple(new if old == InverseStatus.OK else old for old, new in pairs)
        at = found.points
    if len(links) == 1:
        return found
    landed = map_points(chain(links), at).lps
    return InversePoints(at, status, np.linalg.norm(landed - points.lps, axis=1))


def drawn_on(options: dict[str, Any]) -> Grid | None:
    """Find the grid of the image that contours were drawn on, as given or as the run has it."""
    from iterreg.io import grid_of_file

    image = options["drawn_on"]
    if image is None:
        side = "fixed" if options["inverse"] else "moving"
        end = 0 if options["inverse"] else -1
        image = options["transforms"][end].parent / f"{side}_regions.nii.gz"
        if not os.path.exists(image):
            return None
    return grid_of_file(image)


def regions_of(
    options: dict[str, Any], transform: Path, grid: Grid, moving_grid: Grid | None
) -> tuple[LabelMap | None, LabelMap | None]:
    """Read the label maps that were given, or those next to a transform, or none."""
    import torch

    from iterreg.image import LabelMap, require_same_space
    from iterreg.io import on_lattice_of, read_label_map, reading_with

    fixed, moving = options["fixed_labels"], options["moving_labels"]
    if fixed is None:
        folder = transform.parent
        fixed, moving = folder / "fixed_regions.nii.gz", folder / "moving_regions.nii.gz"
        if not (os.path.exists(fixed) and os.path.exists(moving)):
            return None, None
    nothing = torch.zeros((), dtype=torch.int32).expand(grid.shape_zyx)
    reference = LabelMap(nothing, grid, name="the transform")
    with reading_with(structures=()):  # --structures is for what is warped
        fixed_labels = on_lattice_of(read_label_map(fixed, reference=grid), reference)
        require_same_space(fixed_labels, reference)
        return fixed_labels, read_label_map(moving, reference=moving_grid)
