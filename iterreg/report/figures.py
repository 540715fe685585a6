"""One picture of a registration: before, after, and the deformation, on three planes.

Everything is drawn on the fixed grid with its axes nearest to (S, P, L), in radiological
convention. Only the planes shown are resampled, so the size of the volume hardly matters.
Matplotlib is imported inside the functions, by its object interface: no global state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import DisplacementField, Transform, sample
from iterreg.geometry import Grid, apply_affine, fixed_to_moving_index
from iterreg.image import Image, LabelMap, require_same_space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

LATTICE_MM = 10.0
"""Distance of the lattice lines on a body; a small picture gets about LATTICE_LINES of them."""
LATTICE_LINES = 30
BACKGROUND = "#0d1117"
INK = "#e6edf3"
FAINT_INK = "#8b949e"
PALETTE = (
    "#9fb4c7",
    "#3ddbc0",
    "#ffb454",
    "#c792ea",
    "#7cc5ff",
    "#f78c6c",
    "#addb67",
    "#ff7eb6",
    "#ffe66d",
    "#5c9ded",
)
"""One colour per region, in the order of their labels; distinct on black."""
WIDTH_INCH = 13.0
DPI = 140
MOTION_SAMPLES = 64
"""The planes are chosen on a grid thinned to about this many nodes per axis."""


@dataclass(frozen=True)
class _Plane:
    """One plane of the fixed grid, rows downwards and columns rightwards as it is shown.

    Args:
        title: its name in plain words.
        letters: what lies at the left, right, top and bottom edge; empty without anatomy.
        spacing_mm: of rows and columns.
        fixed, before, after: intensities.
        landed_mm: (2, rows, columns), where each pixel lands, along rows and columns.
        labels: the fixed regions, 0 where none is known.
        body: pixels that are not the images' background.
    """

    title: str
    letters: str
    spacing_mm: tuple[float, float]
    fixed: Plane
    before: Plane
    after: Plane
    landed_mm: NDArray[np.float64]
    labels: NDArray[np.int32]
    body: Mask

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        rows, columns = self.fixed.shape
        return rows * self.spacing_mm[0], columns * self.spacing_mm[1]


@dataclass(frozen=True)
class _Scene:
    """What the planes are cut from, all of it on the canonical fixed grid.

    Args:
        grey: the fixed image without its channels, (*shape).
        moving: one channel.
        values: the labels that occur; counted once, volumes are large.
    """

    grid: Grid
    grey: torch.Tensor
    moving: Image
    transform: Transform
    start: Transform
    labels: LabelMap
    values: list[int]


def overlay(
    fixed: Image,
    moving: Image,
    transform: Transform,
    path: str | Path,
    *,
    fixed_labels: LabelMap | None = None,
    start: Transform | None = None,
) -> None:
    """Draw a registration: before, after, and the deformed lattice, on three planes.

    The planes pass through the largest motion. Where the images agree the overlay is grey; what
    only the fixed image shows is blue, what only the moving image shows is orange.

    Args:
        fixed, moving: the pair, rank 2 or 3.
        transform: fixed to moving, on the fixed grid.
        path: the PNG to write.
        fixed_labels: regions to outline; the lattice is cut between them, so that sliding shows
            as a jump of its lines.
        start: what "before" means; None is the position that the files' headers give.

    Raises:
        GeometryError: the labels or a transform do not lie on the fixed grid.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    scene = _scene(fixed, moving, transform, fixed_labels, start)
    planes = [_crop(plane) for plane in _cut_planes(scene)]
    before = _before_in_words(fixed.grid, start)
    figure = _figure(planes, scene, before)
    FigureCanvasAgg(figure)
    figure.savefig(
        path, format="png", dpi=DPI, facecolor=BACKGROUND, pil_kwargs={"compress_level": 4}
    )


def _before_in_words(grid: Grid, start: Transform | None) -> str:
    if start is not None:
        return "by the initial transform"
    return "where the files' headers put them" if grid.rank == 3 else "one laid over the other"


def _scene(
    fixed: Image,
    moving: Image,
    transform: Transform,
    labels: LabelMap | None,
    start: Transform | None,
) -> _Scene:
    if labels is None:
        labels = LabelMap(torch.zeros(fixed.grid.shape_zyx, dtype=torch.int32), fixed.grid)
    else:
        require_same_space(labels, fixed)
    if start is None:
        identity = np.eye(fixed.grid.rank + 1)
        start = Transform(identity, DisplacementField.zero(fixed.grid))
    turned, order = fixed.to_canonical()

    def turn(given: Transform) -> Transform:
        vox = order.apply_vectors(given.field.vox.detach().cpu().float())
        return Transform(given.affine_lps, DisplacementField(vox, turned.grid))

    return _Scene(
        grid=turned.grid,
        grey=_grey(turned)[0],
        moving=replace(moving, data=_grey(moving)),
        transform=turn(transform),
        start=turn(start),
        labels=replace(labels, data=order.apply(labels.data.cpu()), grid=turned.grid),
        values=labels.values,
    )


def _grey(image: Image) -> torch.Tensor:
    """(1, *shape): the image, or the mean of its channels."""
    data = image.data.detach().cpu()
    return data if len(data) == 1 else data.mean(0, keepdim=True)


def _cut_planes(scene: _Scene) -> list[_Plane]:
    background, threshold = _background(scene.grey)
    if scene.grid.rank == 2:
        return [_cut(scene, None, 0, background, threshold)]
    positions = _positions(scene, background, threshold)
    return [_cut(scene, axis, positions[axis], background, threshold) for axis in range(3)]


def _background(grey: torch.Tensor) -> tuple[float, float]:
    """The value that surrounds the body, and how far from it the body begins.

    A negative distance means that there is no background: everything is body.
    """
    faces = [grey.select(a, k) for a in range(grey.ndim) for k in (0, -1)]
    border = torch.cat([f.reshape(-1) for f in faces])
    threshold = 0.05 * (float(grey.max()) - float(grey.min()))
    background = float(border.median())
    # A border that is not of one value is no background: then all of the image is shown.
    alike = float(((border - background).abs() <= threshold / 10).float().mean())
    return (background, threshold) if alike > 0.5 else (background, -1.0)


def _positions(scene: _Scene, background: float, threshold: float) -> list[int]:
    """The plane of each axis that holds most motion, beside what all of the body shares."""
    from scipy.ndimage import gaussian_filter1d

    grid = scene.grid
    steps = [max(1, n // MOTION_SAMPLES) for n in grid.shape_zyx]
    thin = tuple(slice(None, None, s) for s in steps)
    body = (scene.grey[thin] - background).abs() > threshold
    body |= scene.labels.data[thin] != 0
    if not bool(body.any()):
        body |= True
    nodes = [np.arange(0, n, s) for n, s in zip(grid.shape_zyx, steps, strict=True)]
    index = np.stack(np.meshgrid(*nodes, indexing="ij"), -1)
    u = scene.transform.field.vox[(slice(None), *thin)].permute(1, 2, 3, 0).numpy()
    matrix = fixed_to_moving_index(grid, scene.transform.affine_lps, grid)
    total_mm = (apply_affine(matrix, index + u) - index) * grid.spacing_zyx_mm
    inside = body.numpy()
    motion = np.square(total_mm - np.median(total_mm[inside], axis=0)).sum(-1) * inside
    positions = []
    for axis, step in enumerate(steps):
        others = tuple(a for a in range(3) if a != axis)
        # A share of the body's area keeps a centred plane where nothing moves.
        profile = motion.sum(others) + 1e-3 * inside.sum(others)
        profile = gaussian_filter1d(profile, max(1.0, len(profile) / 20), mode="constant")
        positions.append(min(int(np.argmax(profile)) * step, grid.shape_zyx[axis] - 1))
    return positions


def _cut(
    scene: _Scene, axis: int | None, position: int, background: float, threshold: float
) -> _Plane:
    """Resample everything on one plane, and turn it as it is shown."""
    grid = scene.grid
    lattice = [
        np.arange(n) if a != axis else np.array([position]) for a, n in enumerate(grid.shape_zyx)
    ]
    index = np.stack(np.meshgrid(*lattice, indexing="ij"), -1)
    where = tuple(
        slice(position, position + 1) if a == axis else slice(None) for a in range(grid.rank)
    )
    shown = [a for a in range(grid.rank) if a != axis]
    up = axis in (1, 2)  # the rows of coronal and sagittal planes run upwards, to the head

    def show(array: NDArray[Any]) -> NDArray[Any]:
        plane = array if axis is None else array.squeeze(axis)
        return plane[::-1] if up else plane

    def pull(transform: Transform) -> Plane:
        to_moving = fixed_to_moving_index(grid, transform.affine_lps, scene.moving.grid)
        landed = apply_affine(to_moving, index + _displacement(transform, where))
        values = sample(
            scene.moving.data,
            torch.from_numpy(np.moveaxis(landed, -1, 0)).float(),
            outside=float(scene.moving.data.min()),
        )
        return show(values[0].numpy())

    to_fixed = fixed_to_moving_index(grid, scene.transform.affine_lps, grid)
    landed = apply_affine(to_fixed, index + _displacement(scene.transform, where))
    grey = show(scene.grey[where].numpy())
    labels = show(scene.labels.data[where].numpy())
    return _Plane(
        title={None: "", 0: "Axial", 1: "Coronal", 2: "Sagittal"}[axis],
        letters={None: "", 0: "RLAP", 1: "RLSI", 2: "APSI"}[axis],
        spacing_mm=(grid.spacing_zyx_mm[shown[0]], grid.spacing_zyx_mm[shown[1]]),
        fixed=grey,
        before=pull(scene.start),
        after=pull(scene.transform),
        landed_mm=np.stack([show(landed[..., a]) * grid.spacing_zyx_mm[a] for a in shown]),
        labels=labels,
        body=_body(grey, labels, background, threshold),
    )


def _displacement(transform: Transform, where: tuple[slice, ...]) -> NDArray[np.float64]:
    vox = transform.field.vox[(slice(None), *where)].numpy()
    return np.moveaxis(vox, 0, -1).astype(np.float64)


def _body(grey: Plane, labels: NDArray[np.int32], background: float, threshold: float) -> Mask:
    from scipy.ndimage import binary_fill_holes, binary_opening

    body: Mask = binary_fill_holes(np.abs(grey - background) > threshold)
    if body.all():
        return body
    opened = binary_opening(body, iterations=2)
    body = (opened if opened.any() else body) | (labels != 0)
    # Where nothing stands out from the border there is no background to leave out.
    return body if body.mean() > 0.05 else np.ones_like(body)


def _crop(plane: _Plane) -> _Plane:
    """The plane without most of its empty surroundings; a picture is kept whole."""
    cuts = []
    for axis in range(2):
        held = np.flatnonzero(plane.body.any(1 - axis))
        margin = round(8.0 / plane.spacing_mm[axis]) if plane.letters else len(plane.body)
        cuts.append(slice(max(0, held[0] - margin), held[-1] + 1 + margin))
    cut = tuple(cuts)
    return replace(
        plane,
        fixed=plane.fixed[cut],
        before=plane.before[cut],
        after=plane.after[cut],
        landed_mm=plane.landed_mm[(slice(None), *cut)],
        labels=plane.labels[cut],
        body=plane.body[cut],
    )


def _figure(planes: list[_Plane], scene: _Scene, before: str) -> Figure:
    """Three columns of equal width; each row as high as its plane, all at one scale."""
    from matplotlib.figure import Figure

    gap, left, head, foot = 0.10, 0.10, 0.78, 0.62
    widest_mm = max(p.size_mm[1] for p in planes)
    column = (WIDTH_INCH - 2 * left - 2 * gap) / 3
    # A tall stack of planes shrinks until it fits a screen.
    stack_mm = sum(p.size_mm[0] for p in planes)
    scale = min(column / widest_mm, 10.0 / stack_mm)
    column = scale * widest_mm
    width = 3 * column + 2 * gap + 2 * left
    height = head + foot + scale * stack_mm + gap * (len(planes) - 1)
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    windows = _windows(planes)
    step = _lattice_step(planes)
    top = height - head
    for plane in planes:
        tall = scale * plane.size_mm[0]
        wide = scale * plane.size_mm[1]
        top -= tall
        for k, draw in enumerate((_draw_before, _draw_after, _draw_lattice)):
            x = left + k * (column + gap) + (column - wide) / 2
            axes = figure.add_axes((x / width, top / height, wide / width, tall / height))
            _prepare(axes, plane)
            draw(axes, plane, windows, step, scene.values)
            if k == 1 and plane is planes[0]:
                _scale_bar(axes, plane, _unit_name(scene.grid))
        top -= gap
    jump = "; a jump is sliding" if scene.values else ""
    lattice = f"lines {step:g} {_unit_name(scene.grid)} apart in the moving image{jump}"
    _headings(figure, left, column, gap, (before, "grey where both agree", lattice))
    _legend(figure, planes, scene.labels, scene.values)
    return figure


def _prepare(axes: Axes, plane: _Plane) -> None:
    """Millimetre axes without ticks, rows downwards, and the anatomical letters."""
    height, width = plane.size_mm
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    places = (
        (0.012, 0.5, "left", "center"),
        (0.988, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, ha, va) in zip(plane.letters, places, strict=False):
        _write(axes, x, y, letter, ha=ha, va=va, fontsize=8.5)


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Text at shares of the panel, legible on black and on white."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.2, foreground=BACKGROUND, alpha=0.85)]
    axes.text(x, y, text, color=INK, transform=axes.transAxes, zorder=9, path_effects=halo, **style)


def _draw_before(
    axes: Axes, plane: _Plane, windows: _Windows, step: float, values: list[int]
) -> None:
    _show(axes, plane, _two_colours(plane.fixed, plane.before, windows))
    if plane.title:
        _write(axes, 0.016, 0.975, plane.title, ha="left", va="top", fontsize=11, weight="bold")


def _draw_after(
    axes: Axes, plane: _Plane, windows: _Windows, step: float, values: list[int]
) -> None:
    _show(axes, plane, _two_colours(plane.fixed, plane.after, windows))


def _draw_lattice(
    axes: Axes, plane: _Plane, windows: _Windows, step: float, values: list[int]
) -> None:
    grey = 0.5 * _unit(plane.after, windows.moving)
    _show(axes, plane, np.repeat(grey[..., None], 3, -1))
    for value in [0, *values]:
        mask = (plane.labels == value) & plane.body
        if not mask.any():
            continue
        colour = FAINT_INK if value == 0 else _colour(value, values)
        region = _region(plane, mask)
        _lattice(axes, plane, region, step, colour)
        if value != 0:
            _outline(axes, region, colour)


@dataclass(frozen=True)
class _Windows:
    """Intensities shown as black and white, for each image."""

    fixed: tuple[float, float]
    moving: tuple[float, float]


def _windows(planes: list[_Plane]) -> _Windows:
    """1st to 99th percentile inside the body; the moving image where it shows the same body."""
    fixed = np.concatenate([p.fixed[p.body] for p in planes])
    moving = np.concatenate([p.after[p.body] for p in planes])

    def ends(values: Plane) -> tuple[float, float]:
        low, high = np.percentile(values, (1, 99))
        return float(low), float(max(high, low + 1e-6))

    return _Windows(ends(fixed), ends(moving))


def _unit(values: Plane, window: tuple[float, float]) -> Plane:
    low, high = window
    unit: Plane = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return unit


def _two_colours(fixed: Plane, moving: Plane, windows: _Windows) -> Plane:
    """Orange is moving alone, blue is fixed alone, grey is agreement; safe for colour-blind eyes.

    The green channel is the mean, so the difference shows as hue at equal brightness.
    """
    a, b = _unit(fixed, windows.fixed), _unit(moving, windows.moving)
    return np.stack([b, (a + b) / 2, a], -1)


def _show(axes: Axes, plane: _Plane, rgb: Plane) -> None:
    height, width = plane.size_mm
    axes.imshow(rgb, extent=(0, width, height, 0), interpolation="bilinear", aspect="auto")


def _colour(value: int, values: list[int]) -> str:
    return PALETTE[values.index(value) % len(PALETTE)]


def _lattice(axes: Axes, plane: _Plane, region: _Region, step: float, colour: str) -> None:
    """Lines that are straight in the moving image, as the transform bends them in one region.

    The map is extended beyond the region before it is refined, and masked after, so that no line
    is interpolated across an interface and each line still reaches the region's edge.
    """
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~region.mask, return_distances=False, return_indices=True)
    own = np.stack(np.meshgrid(*[np.arange(s.start, s.stop) for s in region.box], indexing="ij"))
    base = own * np.asarray(plane.spacing_mm)[:, None, None]
    # Rows that run upwards count downwards, as the pixels do.
    sign = np.array([-1.0 if plane.letters.endswith("SI") else 1.0, 1.0])[:, None, None]
    u = plane.landed_mm[(slice(None), *region.box)] * sign - base
    u = u[(slice(None), *nearest)]
    for k in range(2):
        landed = _refine(base[k] + u[k], region.factor)
        levels = np.arange(np.ceil(landed.min() / step), np.floor(landed.max() / step) + 1) * step
        if len(levels):
            axes.contour(
                region.columns_mm,
                region.rows_mm,
                np.ma.array(landed, mask=region.fine < 0.5),
                levels=levels,
                colors=colour,
                linewidths=0.65,
                alpha=0.7,
                linestyles="solid",
            )


@dataclass(frozen=True)
class _Region:
    """One region on a plane, cut to its box.

    Args:
        box: rows and columns of the plane.
        mask: the region in its box.
        factor: how much finer the lattice and the outline are drawn.
        fine: the refined mask with smooth edges; above 0.5 is inside.
        rows_mm, columns_mm: where the refined pixels are.
    """

    box: tuple[slice, slice]
    mask: Mask
    factor: int
    fine: Plane
    rows_mm: NDArray[np.float64]
    columns_mm: NDArray[np.float64]


def _region(plane: _Plane, mask: Mask) -> _Region:
    from scipy.ndimage import gaussian_filter

    box = _box(mask)
    factor = int(np.clip(round(600 / max(plane.fixed.shape)), 1, 4))
    blocks = np.kron(mask[box], np.ones((factor, factor), np.float32))
    rows, columns = (
        (np.arange(cut.start * factor, cut.stop * factor) + 0.5) / factor * spacing
        for cut, spacing in zip(box, plane.spacing_mm, strict=True)
    )
    fine = gaussian_filter(blocks, 0.6 * factor, mode="nearest")
    return _Region(box, mask[box], factor, fine, rows, columns)


def _box(region: Mask) -> tuple[slice, slice]:
    """The region's box and two pixels around it."""
    cuts = []
    for axis in range(2):
        held = np.flatnonzero(region.any(1 - axis))
        cuts.append(slice(max(0, held[0] - 2), min(region.shape[axis], held[-1] + 3)))
    return cuts[0], cuts[1]


def _refine(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Linear refinement about pixel centres, extrapolated at the rim."""
    for axis in range(2):
        count = values.shape[axis]
        if count == 1:
            values = np.repeat(values, factor, axis)
            continue
        at = (np.arange(count * factor) + 0.5) / factor - 0.5
        low = np.clip(np.floor(at).astype(int), 0, count - 2)
        share = at - low
        shape = [1, 1]
        shape[axis] = -1
        share = share.reshape(shape)
        values = (1 - share) * values.take(low, axis) + share * values.take(low + 1, axis)
    return values


def _outline(axes: Axes, region: _Region, colour: str) -> None:
    axes.contour(
        region.columns_mm, region.rows_mm, region.fine, levels=[0.5], colors=colour, linewidths=1.2
    )


def _lattice_step(planes: list[_Plane]) -> float:
    """A round distance of lines: 10 mm on a body, finer on what is smaller."""
    longest = max(max(p.size_mm) for p in planes)
    wanted = longest / LATTICE_LINES
    if planes[0].letters:
        wanted = min(wanted, LATTICE_MM)
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(power * max(f for f in (1, 2, 5) if f * power <= wanted * 1.001))


def _unit_name(grid: Grid) -> str:
    """A picture without a spacing is measured in pixels."""
    return "px" if grid.rank == 2 and set(grid.spacing_xyz_mm) == {1.0} else "mm"


def _scale_bar(axes: Axes, plane: _Plane, unit: str) -> None:
    """One bar serves all panels: they share one scale."""
    height, width = plane.size_mm
    power = 10.0 ** np.floor(np.log10(width / 4))
    length = float(power * max(f for f in (1, 2, 5) if f * power <= width / 4))
    y, x = height * 0.972, width * 0.985
    axes.plot([x - length, x], [y, y], color=INK, linewidth=1.6, solid_capstyle="butt")
    _write(axes, 0.985, 0.04, f"{length:g} {unit}", ha="right", va="bottom", fontsize=8)


def _headings(
    figure: Figure, left: float, column: float, gap: float, subtitles: tuple[str, str, str]
) -> None:
    width, height = figure.get_size_inches()
    titles = ("Before", "After", "Deformation")
    for k, (title, subtitle) in enumerate(zip(titles, subtitles, strict=True)):
        x = (left + k * (column + gap) + 0.04) / width
        figure.text(x, 1 - 0.36 / height, title, color=INK, fontsize=14, weight="bold", va="center")
        figure.text(x, 1 - 0.62 / height, subtitle, color=FAINT_INK, fontsize=9.5, va="center")


def _legend(figure: Figure, planes: list[_Plane], labels: LabelMap, values: list[int]) -> None:
    """The colours in words, on one line at the foot."""
    width, height = figure.get_size_inches()
    entries = [("fixed image only", "#4d9bff"), ("moving image only", "#ff9a3d")]
    seen = {int(v) for p in planes for v in np.unique(p.labels) if v != 0}
    drawn = [v for v in values if v in seen]
    entries += [(labels.title(v).replace("_", " "), _colour(v, values)) for v in drawn]
    shown = entries[:10] + ([(f"and {len(entries) - 10} more", FAINT_INK)] * (len(entries) > 10))
    x, y = 0.16, 0.30
    for text, colour in shown:
        figure.text(x / width, y / height, "●", color=colour, fontsize=10, va="center")
        figure.text((x + 0.17) / width, y / height, text, color=INK, fontsize=9, va="center")
        x += 0.17 + 0.066 * len(text) + 0.3
    if planes[0].letters:
        note = "radiological: the patient's right is on your left"
        figure.text(
            1 - 0.12 / width, y / height, note, color=FAINT_INK, fontsize=9, ha="right", va="center"
        )
