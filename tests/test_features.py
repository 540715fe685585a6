"""Features as a similarity: maps on the way to a level, joint channels, and whole registrations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter
from synthetic import rotation

import iterreg
from iterreg.cli import iterreg as command
from iterreg.config import Features, load_config
from iterreg.displacement import total_displacement_mm
from iterreg.errors import ConfigError, ExitCode, PluginError, WeightsError
from iterreg.features import FeatureMaps, mind_ssc, reduce_jointly
from iterreg.features.joint import VARIANCE
from iterreg.geometry import Grid
from iterreg.image import Image
from iterreg.sampling import sample
from iterreg.samreg.cache import RoiCache
from iterreg.samreg.features import sam_features
from iterreg.samreg.segmenter import Embedding

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
STRAIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def volume(seed: int = 0, shape: tuple[int, ...] = (12, 40, 44)) -> Image:
    """Smooth random structure in voxels of 4 x 2 x 2 mm."""
    noise = np.random.default_rng(seed).normal(size=shape)
    values = gaussian_filter(noise, (0.8, 2, 2))
    grid = Grid(shape, (2.0, 2.0, 4.0), (0.0, 0.0, 0.0), STRAIGHT)
    return Image(torch.from_numpy(values / values.std()).float().unsqueeze(0), grid)


# Maps ----------------------------------------------------------------------------------------


def test_a_linear_map_stays_linear_at_every_level_and_past_cut_cells():
    # Cell centres lie at 2.5, 7.5 ... voxels; the last of 8 cells is cut by the image's end.
    places = (torch.arange(8.0) + 0.5) * 5
    maps = FeatureMaps((places.view(1, 1, 1, 8),), ((1.0, 1.0, 37 / 5),), (1.0, 1.0, 37.0))
    fine = maps.on((1, 1, 37)).flatten()
    inner = slice(3, 35)
    assert torch.allclose(fine[inner], torch.arange(37.0)[inner] + 0.5, atol=1e-4)
    coarse = maps.pooled((1.0, 1.0, 4.0)).on((1, 1, 10)).flatten()
    assert torch.allclose(coarse[1:8], (torch.arange(10.0)[1:8] + 0.5) * 4, atol=1e-4)


def test_a_voxel_longer_than_cells_takes_their_mean():
    stripes = torch.tensor([1.0, -1.0] * 32).view(1, 1, 1, 64)
    maps = FeatureMaps.covering(stripes, (1.0, 1.0, 64.0)).pooled((1.0, 1.0, 16.0))
    assert float(maps.on((1, 1, 4)).abs().max()) < 0.02


def test_the_channels_of_several_maps_lie_beside_each_other():
    axial, coronal = torch.full((2, 6, 3, 3), 1.0), torch.full((1, 3, 8, 3), 2.0)
    spans = ((6.0, 3.0, 3.0), (3.0, 8.0, 3.0))
    found = FeatureMaps((axial, coronal), spans, (6.0, 8.0, 9.0)).on((6, 8, 9))
    assert found.shape == (6, 8, 9, 3)
    assert found[..., :2].eq(1).all() and found[..., 2].eq(2).all()


def test_joint_channels_drop_what_a_contrast_adds_and_keep_what_varies():
    random = torch.Generator().manual_seed(0)
    strong = torch.randn(500, generator=random)
    weak = 0.1 * torch.randn(500, generator=random)
    fixed = torch.stack((strong, weak, strong))
    moving = fixed + torch.tensor([[3.0], [-9.0], [0.0]])
    ours, theirs = reduce_jointly(fixed, moving, 1)
    assert torch.allclose(ours, theirs, atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(ours[0], strong, dim=0)
    assert abs(float(cosine)) > 0.99
    assert float(ours.var()) == pytest.approx(VARIANCE, rel=0.05)


def test_cells_that_say_nothing_become_the_mean():
    fixed = torch.linspace(-1, 1, 40).repeat(3, 1)
    fixed[:, :4] = torch.nan
    ours, theirs = reduce_jointly(fixed, torch.linspace(-1, 1, 40).repeat(3, 1), 2)
    assert ours[:, :4].eq(0).all() and ours[0, 4:].abs().max() > 0 and theirs.isfinite().all()


# Any function ----------------------------------------------------------------------------------


def edges(fixed: Image, moving: Image) -> tuple[Any, Any]:
    """Features that do not care which of two tissues is bright: an even function of intensity."""
    found = []
    for image in (fixed, moving):
        scaled = image.data[0] / image.data.abs().mean()
        found.append(torch.stack((scaled.square(), scaled.abs())).numpy())
    return found[0], found[1]


def test_a_function_of_the_user_registers_what_intensities_cannot():
    phantom = iterreg.make_phantom(volume(), amplitude_mm=5.0, noise=0.0)
    inverted = Image(-phantom.moving.data, phantom.moving.grid)
    true = total_displacement_mm(phantom.transform)
    error = {}
    for kind, features in (("mse", None), ("features", edges)):
        result = iterreg.optimize_pair(
            phantom.fixed,
            inverted,
            preset="general",
            overrides={"similarity.kind": kind, "start.affine": "none", "start.search_mm": 0.0},
            features=features,
        )
        error[kind] = float((total_displacement_mm(result.transform) - true).norm(dim=0).mean())
    assert error["features"] < 0.5 * min(error["mse"], float(true.norm(dim=0).mean()))


def test_features_follow_the_axes_of_the_file():
    """A flipped and reordered copy of the pair gives the same registration."""
    fixed, moving = volume(0), volume(0)
    moving = Image(moving.data.roll(1, 3), moving.grid)
    overrides = {"similarity.kind": "features", "levels.steps": [3, 3, 3]}
    points = iterreg.Points([[40.0, 40.0, 24.0], [20.0, 50.0, 30.0]])

    def mapped(first: Image, second: Image) -> np.ndarray:
        run = iterreg.optimize_pair(
            first, second, preset="general", overrides=overrides, features=edges
        )
        return run.transform.map_points(points).lps

    nz, ny, nx = fixed.grid.shape_zyx
    turned = Grid(
        (ny, nz, nx),
        (2.0, 4.0, 2.0),
        ((nx - 1) * 2.0, 0.0, 0.0),
        ((-1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
    )
    copies = [
        Image(i.data.permute(0, 2, 1, 3).flip(3).contiguous(), turned) for i in (fixed, moving)
    ]
    assert np.abs(mapped(fixed, moving) - mapped(copies[0], copies[1])).max() < 1e-3


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda f, m: f.data, "expected two arrays.*got Tensor"),
        (lambda f, m: (np.ones((2, 3, 3)), np.ones((2, 3, 3))), "3 axes of cells for"),
        (lambda f, m: (np.ones((2, 3, 3, 3)), np.ones((4, 3, 3, 3))), "got 2 and 4"),
        (lambda f, m: (np.full((2, 3, 3, 3), np.nan),) * 2, "got NaN or infinity"),
        (lambda f, m: ("a", "b"), "failed"),
        (lambda f, m: 1 / 0, "failed: ZeroDivisionError"),
    ],
)
def test_a_wrong_answer_is_told_in_one_line(answer: Any, told: str):
    with pytest.raises(PluginError, match=f"^features .*{told}") as caught:
        iterreg.optimize_pair(
            volume(),
            volume(),
            preset="general",
            overrides={"similarity.kind": "features"},
            features=answer,
        )
    assert "\n" not in str(caught.value)


def test_features_that_nothing_compares_are_refused_before_anything_is_read():
    with pytest.raises(
        ConfigError, match=r"features: a function was given, but similarity.kind is"
    ):
        iterreg.optimize_pair("none.nii", "none.nii", features=edges)
    with pytest.raises(ConfigError, match=r"similarity.kind features: expected a function"):
        iterreg.optimize_pair("none.nii", "none.nii", overrides={"similarity.kind": "features"})
    with pytest.raises(ConfigError, match=r"expected sam or features, got both"):
        both = {"similarity.kind": "features", "beside.kind": "sam"}
        iterreg.optimize_pair("none.nii", "none.nii", overrides=both, features=edges)
    with pytest.raises(TypeError, match=r"features: expected a function .* got str"):
        iterreg.optimize_pair("none.nii", "none.nii", features="edges")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [("axes", ["q"]), ("axes", ["z", "z"]), ("channels", 0), ("channels", 1000), ("variant", "x")],
)
def test_settings_out_of_range(key: str, value: Any):
    with pytest.raises(ConfigError, match=f"features.{key}"):
        load_config("general", {f"features.{key}": value})


def test_three_axes_need_three_channels():
    with pytest.raises(ConfigError, match=r"features.channels: expected 3 to 256, got 2"):
        load_config("general", {"features.axes": ["z", "y", "x"], "features.channels": 2})


# The encoder's cells ---------------------------------------------------------------------------


class Grey:
    """An encoder whose features are the grey levels of 8 x 8 cells, padded below to a square."""

    name, fingerprint, device = "grey", "grey-1", torch.device("cpu")

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, pictures: list[torch.Tensor]) -> list[Embedding]:
        """Means over cells, and their squares."""
        found = []
        for picture in pictures:
            self.encoded += 1
            height, width = picture.shape[:2]
            side = max(height, width)
            square = torch.zeros(1, 1, side, side)
            square[0, 0, :height, :width] = picture[..., 0].float() / 255
            cells = torch.nn.functional.adaptive_avg_pool2d(square, 16)[0]
            valid = height / side, width / side
            found.append(Embedding(torch.cat((cells, cells**2)), (height, width), valid))
        return found


@pytest.mark.parametrize("axes", [("z",), ("y",), ("x",), ("z", "y", "x")])
def test_cells_lie_where_the_image_shows_what_they_saw(axes: tuple[str, ...]):
    image = volume(shape=(40, 40, 44))
    maps, same = sam_features(
        (image, image), Features(axes=axes, channels=2 * len(axes)), Grey(), RoiCache(None)
    )
    assert maps.extent == (40.0, 40.0, 44.0) and maps.channels == 2 * len(axes)
    ours = maps.on((40, 40, 44))
    assert torch.equal(ours, same.on((40, 40, 44)))
    smooth = gaussian_filter(image.data[0].numpy(), (1, 2, 2))
    for k in range(len(axes)):
        most = max(
            abs(np.corrcoef(smooth.ravel(), ours[..., 2 * k + c].numpy().ravel())[0, 1])
            for c in range(2)
        )
        assert most > 0.7, axes


def test_slices_closer_than_cells_are_not_all_encoded(tmp_path: Path):
    image, encoder = volume(shape=(150, 40, 44)), Grey()
    image = Image(image.data, Grid((150, 40, 44), (4.0, 4.0, 1.0), (0.0, 0.0, 0.0), STRAIGHT))
    settings = Features(axes=("z",), channels=2)
    sam_features((image, image), settings, encoder, RoiCache(tmp_path))
    # 64 cells along 176 mm: 150 slices of 1 mm are encoded at 55 places; the second time none is.
    assert encoder.encoded == 55
    sam_features((image, image), settings, encoder, RoiCache(tmp_path))
    assert encoder.encoded == 55


def test_blank_slices_say_nothing():
    data = volume(shape=(12, 40, 44)).data
    data[:, :3] = data.min()
    image = Image(data, volume().grid)
    maps, _ = sam_features((image, image), Features(channels=2), Grey(), RoiCache(None))
    assert maps.maps[0][:, :3].eq(0).all() and maps.maps[0][:, 4:].abs().amax((0, 2, 3)).gt(0).all()


def test_without_weights_one_line_says_how_to_get_them(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("ITERREG_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"mobile_sam: no weights at .*weights fetch mobile_sam"):
        iterreg.optimize_pair(
            volume(), volume(), preset="general", overrides={"similarity.kind": "sam"}
        )


# Real weights ----------------------------------------------------------------------------------


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS}: no MobileSAM weights here")
@pytest.mark.parametrize("labels", [False, True])
def test_sam_registers_a_heart_whose_contrast_is_inverted(
    labels: bool, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setenv("ITERREG_CACHE", str(tmp_path))
    picture = iterreg.read_image(DATA / "samreg2d" / "cardiac_mr" / "image1_R.png")
    picture = Image(picture.data.mean(0, keepdim=True), picture.grid)
    phantom = iterreg.make_phantom(picture, amplitude_mm=8.0, noise=0.0, contrast="inverted")
    bright = [
        iterreg.LabelMap((i.data[0] > i.data.quantile(0.9)).int(), i.grid)
        for i in (iterreg.make_phantom(picture, amplitude_mm=8.0, noise=0.0).fixed, phantom.moving)
    ]
    given = dict(zip(("fixed_labels", "moving_labels"), bright, strict=True)) if labels else {}
    result = iterreg.optimize_pair(
        phantom.fixed,
        phantom.moving,
        preset="general",
        overrides={"similarity.kind": "sam", "features.checkpoint": str(WEIGHTS)},
        **given,
    )
    true = total_displacement_mm(phantom.transform)
    error = (total_displacement_mm(result.transform) - true).norm(dim=0).mean()
    assert float(error) < 0.35 * float(true.norm(dim=0).mean())
    assert result.config.similarity.kind == "sam" and "features" in result.timings_s


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS}: no MobileSAM weights here")
def test_sam_beside_mind_from_the_command_line(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("ITERREG_CACHE", str(tmp_path / "cache"))
    folder = DATA / "samreg2d" / "cardiac_mr"
    words = [
        "register",
        "--preset",
        "general",
        "--fixed",
        str(folder / "image1_R.png"),
        "--moving",
        str(folder / "image1_T.png"),
        "--out",
        str(tmp_path / "out"),
        "--no-report",
        "--set",
        "beside.kind=sam",
        "--set",
        f"features.checkpoint={WEIGHTS}",
    ]
    run = CliRunner().invoke(command, words)
    assert run.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL), run.output
    config = iterreg.load_run(tmp_path / "out").config
    assert config.beside is not None and config.beside.kind == "sam"


# MIND ----------------------------------------------------------------------------------------


SIDE_MM = 48.0


def places_of(spacing_mm: tuple[float, ...], turn: np.ndarray | None = None) -> torch.Tensor:
    """(3, Z, Y, X) mm, the centres of voxels; ``turn`` turns the lattice about its middle."""
    axes = [(torch.arange(round(SIDE_MM / s)) + 0.5) * s for s in spacing_mm]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    if turn is None:
        return places
    matrix = torch.from_numpy(turn).float()
    return torch.einsum("ab,bzyx->azyx", matrix, places - SIDE_MM / 2) + SIDE_MM / 2


def waves(spacing_mm: tuple[float, ...], turn: np.ndarray | None = None) -> torch.Tensor:
    """The same smooth anatomy of 48 mm a side, sampled at the centres of voxels (z, y, x)."""
    places = places_of(spacing_mm, turn)
    random = torch.Generator().manual_seed(3)
    total = torch.zeros(places.shape[1:])
    for _ in range(20):
        way = torch.nn.functional.normalize(torch.randn(3, generator=random), dim=0)
        length, phase = 16 + 20 * torch.rand(2, generator=random)
        total += (2 * torch.pi * torch.einsum("c,czyx->zyx", way, places) / length + phase).cos()
    return total


@pytest.mark.parametrize("spacing", [(3.0, 2.0, 2.0), (1.5, 1.6, 2.0), (2.0, 1.0, 3.0)], ids=str)
def test_two_samplings_of_the_same_anatomy_have_the_same_features(spacing):
    lattice = (2.0, 2.0, 2.0)
    fixed = mind_ssc(waves(lattice), lattice, 4.0, 8.0)
    errors = []
    for asked in (None, lattice):
        found = mind_ssc(waves(spacing), spacing, 4.0, 8.0, lattice_zyx_mm=asked).movedim(-1, 0)
        on_fixed = torch.nn.functional.interpolate(found[None], fixed.shape[:3], mode="trilinear")
        inner = (on_fixed[0].movedim(0, -1) - fixed)[6:-6, 6:-6, 6:-6]
        errors.append(float(inner.square().mean().sqrt()))
    without, with_lattice = errors
    assert with_lattice < 0.06
    assert with_lattice < 0.6 * without


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (2.5, 1.6, 2.0)], ids=str)
@pytest.mark.parametrize("degrees", [(8.0, 0.0, 0.0), (-6.0, 10.0, 20.0)], ids=str)
def test_a_turned_image_has_the_same_features(spacing, degrees):
    lattice = (2.0, 2.0, 2.0)
    axes = rotation(*degrees)
    fixed = mind_ssc(waves(lattice), lattice, 4.0, 8.0)
    # Where the voxels of the fixed image lie among those of the turned one.
    at = places_of(lattice, axes.T) / torch.tensor(spacing).view(3, 1, 1, 1) - 0.5
    errors = []
    for turn in (None, axes.T):
        features = mind_ssc(
            waves(spacing, axes), spacing, 4.0, 8.0, lattice_zyx_mm=lattice, turn=turn
        )
        found = sample(features.movedim(-1, 0), at).movedim(0, -1)
        errors.append(float((found - fixed)[8:-8, 8:-8, 8:-8].square().mean().sqrt()))
    without, with_turn = errors
    assert with_turn < 0.06
    assert with_turn < 0.7 * without


def test_a_slight_turn_changes_no_feature():
    volume = torch.rand(6, 7, 8, generator=torch.Generator().manual_seed(0))
    spacing = (2.5, 1.953, 1.953)
    slight = mind_ssc(volume, spacing, 4.0, turn=rotation(1.0, -1.5, 0.5))
    assert torch.equal(slight, mind_ssc(volume, spacing, 4.0))
    assert not torch.equal(slight, mind_ssc(volume, spacing, 4.0, turn=rotation(0.0, 0.0, 15.0)))


def test_the_own_lattice_is_that_of_the_voxels():
    volume = torch.rand(6, 7, 8, generator=torch.Generator().manual_seed(0))
    spacing = (2.5, 1.953, 1.953)
    own = mind_ssc(volume, spacing, 4.0)
    assert torch.equal(mind_ssc(volume, spacing, 4.0, lattice_zyx_mm=spacing), own)
