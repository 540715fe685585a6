"""The picture of a registration: planes, orientation, colours, the lattice, both ranks."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import GeometryError
from iterreg.figures import overlay
from iterreg.figures.canonical_pair import Background, CanonicalPair
from iterreg.figures.panels import Windows, _show_difference, draw_deformation, two_colours
from iterreg.figures.planes import Plane, cut_planes, plane_positions
from iterreg.figures.style import REGION_COLOURS
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap

EYE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
SHAPE = (14, 40, 48)


def grid(direction: tuple[tuple[float, ...], ...] = EYE) -> Grid:
    """Anisotropic, and not at the origin."""
    return Grid(SHAPE, (1.5, 2.0, 6.0), (10.0, -20.0, 30.0), direction)


def body(where: Grid) -> torch.Tensor:
    """A bright box with dark surroundings, (*shape)."""
    data = torch.full(where.shape_zyx, -1000.0)
    inner = tuple(slice(n // 8, n - n // 8) for n in where.shape_zyx)
    data[inner] = 40.0
    return data


def still(where: Grid) -> Transform:
    """The identity."""
    return Transform(np.eye(where.rank + 1), DisplacementField.zero(where))


def canonical(image: Image, transform: Transform, labels: LabelMap | None = None) -> CanonicalPair:
    """What the planes are cut from."""
    return CanonicalPair.of((image, image), transform, labels)


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def test_three_planes_at_one_scale(tmp_path: Path) -> None:
    where = grid()
    labels = LabelMap((body(where) > 0).int(), where, {1: "left_lung"})
    image = Image(body(where)[None], where)
    overlay(image, image, still(where), tmp_path / "o.png", fixed_labels=labels)
    width, height = png_size(tmp_path / "o.png")
    assert 1200 < width < 2400
    assert 0.4 < height / width < 1.4


@pytest.mark.parametrize("direction", [EYE, FLIPPED])
def test_radiological_convention(direction: tuple[tuple[float, ...], ...]) -> None:
    """The patient's left is on the right, posterior below, superior above, however it is stored."""
    where = grid(direction)
    data = body(where)
    centre = where.centre_lps_mm
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)
    homogeneous = np.concatenate([index, np.ones((*SHAPE, 1))], -1)
    x, y, z = np.moveaxis((homogeneous @ where.index_to_lps.T)[..., :3] - centre, -1, 0)
    for along in (x, y, z):
        data += torch.from_numpy((along > 0) * 300.0) * (data > -1000)
    image = Image(data[None].float(), where)
    axial, coronal, sagittal = cut_planes(canonical(image, still(where)))

    def halves(plane: Plane, axis: int) -> bool:
        first, second = np.array_split(plane.fixed, 2, axis)
        return bool(first.sum() < second.sum())

    assert halves(axial, 1)  # left, to the right
    assert halves(axial, 0)  # posterior, below
    assert halves(coronal, 1)
    assert not halves(coronal, 0)  # superior, above
    assert halves(sagittal, 1)  # posterior, to the right
    assert not halves(sagittal, 0)
    assert axial.letters == "RLAP"


def test_planes_pass_through_the_motion() -> None:
    where = grid()
    vox = torch.zeros(3, *SHAPE)
    vox[2, 8:11, 24:30, 9:14] = 5
    transform = Transform(np.eye(4), DisplacementField(vox, where))
    image = Image(body(where)[None], where)
    at = plane_positions(canonical(image, transform), Background(-1000.0, 50.0))
    assert 7 <= at[0] <= 11
    assert 22 <= at[1] <= 31
    assert 7 <= at[2] <= 15


@pytest.mark.parametrize("side", [0, 1])
def test_planes_pass_through_what_both_images_see(side: int) -> None:
    where = grid()
    vox = torch.zeros(3, *SHAPE)
    vox[2, 8:11, 24:30, 9:14] = 5
    transform = Transform(np.eye(4), DisplacementField(vox, where))
    image = Image(body(where)[None], where)
    fovs = [torch.ones(SHAPE, dtype=torch.bool) for _ in range(2)]
    fovs[side][7:] = False
    pair = CanonicalPair.of((image, image), transform, fovs=(fovs[0], fovs[1]))
    assert plane_positions(pair, Background(-1000.0, 50.0))[0] < 7


def test_shared_motion_does_not_choose_the_planes() -> None:
    where = grid()
    affine = np.eye(4)
    affine[:3, 3] = (80.0, 10.0, 0.0)
    image = Image(body(where)[None], where)
    transform = Transform(affine, DisplacementField.zero(where))
    at = plane_positions(canonical(image, transform), Background(-1000.0, 50.0))
    assert all(abs(k - n / 2) <= n / 4 for k, n in zip(at, SHAPE, strict=True))


def test_agreement_is_grey_and_difference_is_not() -> None:
    values = np.linspace(0, 100, 50, dtype=np.float32).reshape(5, 10)
    windows = Windows((0, 100), (0, 100))
    same = two_colours(values, values, windows)
    assert np.ptp(same, axis=-1).max() == 0
    fixed_alone = two_colours(values + 50, values, windows)[1, 2]
    moving_alone = two_colours(values, values + 50, windows)[1, 2]
    assert fixed_alone[2] > fixed_alone[0]
    assert moving_alone[0] > moving_alone[2]


def test_what_one_image_does_not_show_is_hatched_and_has_no_hue() -> None:
    """The moving image ends half way, and corners of both are not measured."""
    from matplotlib.figure import Figure

    where = Grid((40, 60), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    half = Grid((40, 30), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    fov = torch.ones(40, 30, dtype=torch.bool)
    fov[:5, :5] = False
    fixed_fov = torch.ones(40, 60, dtype=torch.bool)
    fixed_fov[30:, :10] = False
    pair = CanonicalPair.of(
        (Image(torch.rand(1, 40, 60), where), Image(torch.rand(1, 40, 30), half)),
        still(where),
        fovs=(fixed_fov, fov),
    )
    plane = cut_planes(pair)[0]
    expected = np.zeros((40, 60), bool)
    expected[:, :30] = fov.numpy()
    expected &= fixed_fov.numpy()
    assert (plane.seen_after == expected).all()
    axes = Figure().add_axes((0, 0, 1, 1))
    _show_difference(axes, plane, plane.after, plane.seen_after, Windows((0, 1), (0, 1)))
    shown = np.asarray(axes.images[0].get_array())
    hue = np.ptp(shown, axis=-1)
    assert hue[~expected].max() < 1e-6
    assert hue[expected].max() > 0.1
    assert [h for c in axes.collections for h in c.hatches] == ["////"]


def test_outlines_are_not_in_the_colours_of_the_difference() -> None:
    import colorsys

    from matplotlib.colors import to_rgb

    for colour in REGION_COLOURS:
        hue, light, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
        assert saturation < 0.15 or not (0.03 < hue < 0.13 or 0.53 < hue < 0.68), colour
        assert light > 0.4


def test_lattice_is_deformed_by_the_transform_and_cut_at_regions() -> None:
    """Two halves slide by 4 mm: each carries its own straight lines, none bridges them."""
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure

    where = Grid((60, 60), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    labels = torch.ones(60, 60, dtype=torch.int32)
    labels[:, 30:] = 2
    vox = torch.zeros(2, 60, 60)
    vox[0, :, 30:] = 4
    image = Image(torch.rand(1, 60, 60), where)
    transform = Transform(np.eye(3), DisplacementField(vox, where))
    plane = cut_planes(canonical(image, transform, LabelMap(labels, where)))[0]
    axes = Figure().add_axes((0, 0, 1, 1))
    draw_deformation(axes, plane, Windows((0, 1), (0, 1)), 10.0, [1, 2])
    horizontal = {1: set(), 2: set()}
    for artist in axes.collections:
        assert isinstance(artist, QuadContourSet)
        for path in artist.get_paths():
            for line in path.to_polygons(closed_only=False):
                if np.ptp(line[:, 0]) > 20 and np.ptp(line[:, 1]) < 1e-6:
                    side = 1 if line[:, 0].mean() < 30 else 2
                    horizontal[side].add(round(float(line[0, 1]) - 0.5, 2))
                    assert line[:, 0].max() < 30.6 or line[:, 0].min() > 29.4
    assert {10.0, 20.0, 30.0} <= horizontal[1]
    assert {6.0, 16.0, 26.0} <= horizontal[2]


def test_pictures_and_colours_work(tmp_path: Path) -> None:
    where = Grid((90, 120), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    image = Image(torch.rand(3, 90, 120), where)
    overlay(image, image, still(where), tmp_path / "o.png")
    width, height = png_size(tmp_path / "o.png")
    assert width > 2 * height


def test_degenerate_inputs_are_drawn(tmp_path: Path) -> None:
    where = Grid((1, 30, 30), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0), EYE)
    image = Image(torch.rand(1, 1, 30, 30), where)
    overlay(image, image, still(where), tmp_path / "slice.png")
    flat = Image(torch.zeros(1, *SHAPE), grid())
    many = LabelMap(torch.arange(SHAPE[2]).expand(SHAPE).int().contiguous(), grid())
    overlay(flat, flat, still(grid()), tmp_path / "flat.png", fixed_labels=many)
    far = np.eye(4)
    far[:3, 3] = 1e4
    away = Transform(far, DisplacementField.zero(grid()))
    image = Image(body(grid())[None], grid())
    overlay(image, image, away, tmp_path / "far.png", start=still(grid()))


def test_labels_of_another_space_are_refused(tmp_path: Path) -> None:
    image = Image(body(grid())[None], grid())
    labels = LabelMap(torch.zeros(SHAPE, dtype=torch.int32), grid(FLIPPED))
    with pytest.raises(GeometryError):
        overlay(image, image, still(grid()), tmp_path / "o.png", fixed_labels=labels)
    assert not (tmp_path / "o.png").exists()


def test_pyplot_is_left_alone() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import test_figures as t\n"
        "from pathlib import Path; import tempfile\n"
        "t.test_three_planes_at_one_scale(Path(tempfile.mkdtemp()))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stderr


def test_drawing_takes_little_time(tmp_path: Path) -> None:
    where = Grid((64, 96, 96), (2.0, 2.0, 2.5), (0.0, 0.0, 0.0), EYE)
    labels = LabelMap((body(where) > 0).int(), where)
    image = Image(body(where)[None], where)
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        overlay(image, image, still(where), tmp_path / "o.png", fixed_labels=labels)
        seconds.append(time.process_time() - begun)
    assert min(seconds) < 1.5
