"""The alignment of two volumes: cells of their slices propose, patches decide."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from scipy.ndimage import affine_transform, gaussian_filter

from iterreg.cli import iterreg as command
from iterreg.errors import ExitCode
from iterreg.geometry import Grid, apply_affine
from iterreg.image import Image
from iterreg.samreg.align import Alignment, align
from iterreg.samreg.pictures import PictureStack, cut_pictures
from iterreg.samreg.volumes import cells_of_volume, choose_volume_alignment

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
NONE = Alignment(np.eye(4), "identity", np.zeros(0, bool), 0.0)
DEPTH, SIDE, CELL = 5, 256, 8
SPACING_MM = (1.5, 1.5, 9.0)
AXES = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0))


def stack_of(volume: np.ndarray) -> PictureStack:
    """An oblique volume as the matching takes it."""
    grid = Grid(volume.shape, SPACING_MM, (5.0, -40.0, 12.0), AXES)
    return cut_pictures(Image(torch.from_numpy(volume)[None], grid, dtype="int16"), 0)


def world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A volume larger than its images, and a feature for each of its cells."""
    random = np.random.default_rng(seed)
    shape = (DEPTH + 2, SIDE + 64, SIDE + 64)
    volume = sum(gaussian_filter(random.normal(size=shape), (0.4, s, s)) * s for s in (2, 5))
    cells = random.normal(size=(shape[0], shape[1] // CELL, shape[2] // CELL, 64))
    return (100 * volume).astype(np.float32), cells.astype(np.float32)


def seen(made: tuple[np.ndarray, np.ndarray], low: tuple[int, int, int]) -> tuple:
    """The stack and the features of the part of a world that begins at a voxel."""
    z, y, x = low
    part = made[0][z : z + DEPTH, y : y + SIDE, x : x + SIDE]
    rows, columns = (slice(v // CELL, v // CELL + SIDE // CELL) for v in (y, x))
    cells = torch.from_numpy(made[1][z : z + DEPTH, rows, columns])
    return stack_of(part.copy()), [(f.permute(2, 0, 1), (1.0, 1.0)) for f in cells]


@pytest.mark.parametrize("kind", ["similarity", "affine"])
def test_a_turn_in_space_is_found_among_wrong_matches(kind: str) -> None:
    random = np.random.default_rng(1)
    fixed = random.uniform(-80, 80, (300, 3))
    truth = np.eye(4)
    truth[:3, :3] = 1.1 * np.array(sitk.VersorTransform((0.3, 0.5, 0.8), 0.6).GetMatrix()).reshape(
        3, 3
    )
    truth[:3, 3] = (30, -12, 7)
    moving = apply_affine(truth, fixed) + random.normal(0, 0.2, fixed.shape)
    moving[100:] = random.uniform(-80, 80, (200, 3))
    found = align(fixed, moving, 2.0, kind)
    assert found.kind == kind and found.inlier_count >= 100
    np.testing.assert_allclose(
        apply_affine(found.affine_lps, fixed), apply_affine(truth, fixed), atol=1
    )


def test_cells_lie_at_their_places_in_space() -> None:
    stack, features = seen(world(0), (1, 16, 24))
    cells = cells_of_volume(stack, [*features[:2], None, *features[3:]])
    assert len(cells) == 4 * (SIDE // CELL) ** 2 and cells.size_mm == pytest.approx(CELL * 1.5)
    first = apply_affine(stack.grid.index_to_lps, np.array([[0, 3.5, 3.5]]))
    np.testing.assert_allclose(cells.places_lps[:1], first)


def test_cells_find_a_shifted_volume_and_patches_agree() -> None:
    made = world(0)
    fixed, moving = seen(made, (1, 0, 0)), seen(made, (0, 40, 24))
    chosen = choose_volume_alignment((fixed[0], moving[0]), (fixed[1], moving[1]), NONE)
    assert chosen.best is not None and chosen.best.source == "cells"
    ends = [np.array([[2.0, 100.0, 100.0]]), np.array([[3.0, 60.0, 76.0]])]
    here, there = (apply_affine(fixed[0].grid.index_to_lps, end) for end in ends)
    np.testing.assert_allclose(apply_affine(chosen.best.affine_lps, here), there, atol=0.5)


def test_cells_far_ahead_are_taken_though_few_patches_agree() -> None:
    made, changed = world(0), world(1)[0]
    # Most of what the moving volume shows has changed; its features have not.
    changed[:, : SIDE // 3] = made[0][:, : SIDE // 3]
    fixed, moving = seen(made, (1, 0, 0)), seen((changed, made[1]), (1, 40, 24))
    chosen = choose_volume_alignment((fixed[0], moving[0]), (fixed[1], moving[1]), NONE)
    assert chosen.best is None and chosen.taken is not None and chosen.taken.source == "cells"
    assert "by cells, hardly supported" in chosen.summary
    assert chosen.to_dict()["source"] == "cells" and not chosen.to_dict()["supported"]
    ends = [np.array([[2.0, 100.0, 100.0]]), np.array([[2.0, 60.0, 76.0]])]
    here, there = (apply_affine(fixed[0].grid.index_to_lps, end) for end in ends)
    np.testing.assert_allclose(apply_affine(chosen.taken.affine_lps, here), there, atol=0.5)


def test_the_header_stays_where_cells_mislead() -> None:
    made = world(0)
    (stack, _), (_, wrong) = seen(made, (1, 0, 0)), seen(made, (1, 40, 24))
    _, right = seen(made, (1, 0, 0))
    chosen = choose_volume_alignment((stack, stack), (right, wrong), NONE)
    assert chosen.best is not None and chosen.best.kind == "identity"
    assert {h.source for h in chosen.tried} == {"header", "cells"}


def test_unlike_volumes_have_no_supported_alignment() -> None:
    fixed, moving = seen(world(0), (0, 0, 0)), seen(world(1), (0, 0, 0))
    chosen = choose_volume_alignment((fixed[0], moving[0]), (fixed[1], moving[1]), NONE)
    assert chosen.best is None and "no alignment is supported" in chosen.summary
    assert chosen.taken is None


def test_a_turned_heart_is_aligned_with_real_weights(tmp_path: Path) -> None:
    hearts = [DATA / "acdc" / f"patient067_frame{frame}.nii.gz" for frame in ("01", "10")]
    if not (WEIGHTS.is_file() and hearts[0].is_file()):
        pytest.skip(f"no weights at {WEIGHTS} or no hearts; set ITERREG_DATA")
    fixed, other = (sitk.ReadImage(str(heart), sitk.sitkFloat32)[:, :, 3:6] for heart in hearts)
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    middle, shift = np.array([107.5, 127.5]), np.array([9, -7])
    offset = middle - turn @ (middle + shift)
    slices = sitk.GetArrayFromImage(other)
    turned = [affine_transform(s, turn, offset, order=1) for s in slices]
    moving = sitk.GetImageFromArray(np.stack(turned))
    moving.SetSpacing(fixed.GetSpacing())
    for name, image in (("a", fixed), ("b", moving)):
        image.SetOrigin((0, 0, 0))
        image.SetDirection(sitk.VersorTransform((0.0, 0.6, 0.8), 0.3).GetMatrix())
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    words = ["samreg", "--points", "2", "--no-fit", "--no-cache", "--checkpoint", WEIGHTS]
    words += ["--fixed", tmp_path / "a.nii.gz", "--moving", tmp_path / "b.nii.gz"]
    done = CliRunner().invoke(command, [str(w) for w in (*words, "--out", tmp_path / "out")])
    assert done.exit_code == ExitCode.OK, done.output
    matching = json.loads((tmp_path / "out" / "run.json").read_text())["matching"]
    assert matching["alignment"]["source"] == "cells" and "by cells" in done.output
    yx = np.array([[80.0, 90.0], [150.0, 100.0], [100.0, 180.0]])
    there = (yx - middle) @ turn + middle + shift
    ends = [
        np.array([f.TransformContinuousIndexToPhysicalPoint((x, y, 1.0)) for y, x in p])
        for f, p in ((fixed, yx), (moving, there))
    ]
    landed = apply_affine(np.array(matching["alignment"]["affine_lps"]), ends[0])
    assert np.linalg.norm(landed - ends[1], axis=1).max() < 6
