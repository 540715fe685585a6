"""A CT whose numbers are Hounsfield units and an offset gives the result of the same CT in HU."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iterreg
from iterreg import Image, LabelMap, Registration, optimize_pair
from iterreg.config import load_config
from iterreg.expected_error.features import _side
from iterreg.io import read_image, read_label_map
from iterreg.regions.hounsfield import Numbers, clip_limits, hounsfield_offset
from iterreg.samreg.pictures import cut_pictures

ROOT = Path(__file__).parents[1]
MINI = Path(iterreg.__file__).parent / "data" / "thorax4dct_mini"
CONE_BEAM = ROOT / "tests" / "data" / "simulated_cbct"
QUICK = {"levels.spacing_mm": [8.0], "levels.steps": [8], "start.search_mm": 0.0}
AIR_HU = -1000.0


def stored(phase: str, offset: float = 0.0, dtype: str = "int16") -> Image:
    """An image of the mini pair with numbers as a file may have them."""
    image = read_image(MINI / f"{phase}.nii.gz")
    values = image.data + offset
    if dtype.startswith("u"):
        values = values.clamp(min=0.0)
    return replace(image, data=values, dtype=dtype)


def labels(phase: str) -> LabelMap:
    return read_label_map(MINI / f"{phase}_labels.nii.gz")


@lru_cache
def registered(fixed: float, moving: float, way: str = "segmented") -> Registration:
    """The pair with offsets, with regions from somewhere."""
    given: dict[str, Any] = {}
    overrides: dict[str, Any] = dict(QUICK)
    if way == "labels":
        given = {"fixed_labels": labels("fixed"), "moving_labels": labels("moving")}
    if way == "none":
        overrides["segmenter"] = "none"
    images = [
        stored(phase, offset, "uint16" if offset else "int16")
        for phase, offset in (("fixed", fixed), ("moving", moving))
    ]
    return optimize_pair(*images, overrides=overrides, threads=1, **given)


@pytest.mark.parametrize(
    ("fixed", "moving", "way"),
    [
        (0.0, 1024.0, "segmented"),
        (1024.0, 0.0, "segmented"),
        (1000.0, 1024.0, "segmented"),
        (0.0, 1024.0, "labels"),
        (1024.0, 0.0, "none"),
    ],
)
def test_an_offset_changes_no_result(fixed: float, moving: float, way: str) -> None:
    plain, found = registered(0.0, 0.0, way), registered(fixed, moving, way)
    evidence, expected = found.verdict.evidence, plain.verdict.evidence
    assert evidence is not None and expected is not None
    assert found.verdict.headline == plain.verdict.headline
    assert evidence.after.lncc == pytest.approx(expected.after.lncc, abs=0.002)
    assert evidence.region_dice == pytest.approx(expected.region_dice, abs=0.002)
    ours, theirs = (
        r.measure(fixed_labels=labels("fixed"), moving_labels=labels("moving"))
        for r in (found, plain)
    )
    for one, other in zip(ours.regions, theirs.regions, strict=True):
        assert one.dice_after == pytest.approx(other.dice_after, abs=0.002)
    told = [note for note in found.notes if "Hounsfield" in note]
    assert len(told) == (fixed > 0) + (moving > 0)
    assert all("+10" in note for note in told)
    assert not any("Hounsfield" in note for note in plain.notes)


def test_the_warped_image_keeps_its_numbers() -> None:
    plain, found = registered(0.0, 0.0), registered(0.0, 1024.0)
    assert found.config.fill == AIR_HU + 1024
    difference = found.warp().data - 1024 - plain.warp().data
    assert float(difference.abs().median()) < 1e-3 and float(difference.abs().max()) < 60
    again = load_config(found.config)
    assert Numbers(0.0, 1024.0).with_fill(again) == again, "a recorded fill is not moved twice"


@pytest.mark.parametrize("offset", [1000.0, 1024.0, 2048.0, 32768.0])
@pytest.mark.parametrize("phase", ["fixed", "moving"])
def test_offsets_are_found(phase: str, offset: float) -> None:
    assert hounsfield_offset(stored(phase, offset, "uint16")) == pytest.approx(offset, abs=10)
    if offset < 2000:
        assert hounsfield_offset(stored(phase, offset)) == offset


def test_noise_and_a_lower_fill_hide_no_offset() -> None:
    image = stored("moving")
    noise = 30 * torch.randn(image.data.shape, generator=torch.Generator().manual_seed(0))
    noisy = replace(image, data=(image.data + noise + 1024).clamp(min=0))
    assert hounsfield_offset(noisy) == 1024
    floor = torch.where(image.data < -990, -1024.0, image.data)
    assert hounsfield_offset(replace(image, data=floor + 1024)) == pytest.approx(1024, abs=24)


def padded(data: torch.Tensor, padding: float) -> torch.Tensor:
    """A volume with padding around the round view of its slices."""
    y, x = (torch.arange(n) - (n - 1) / 2 for n in data.shape[2:])
    round_view = y[:, None] ** 2 + x**2 < (min(len(y), len(x)) / 2 - 1) ** 2
    return torch.where(round_view, data, padding)


@pytest.mark.parametrize("padding", [-3024.0, -2000.0, -1024.0])
def test_padding_is_no_air(padding: float) -> None:
    image = stored("moving")
    data = padded(image.data, padding)
    assert hounsfield_offset(replace(image, data=data)) == 0
    assert hounsfield_offset(replace(image, data=data + 1024)) == 1024
    assert hounsfield_offset(replace(image, data=(data + 1024).clamp(min=0))) == 1024


@pytest.mark.parametrize("name", ["half_fan", "short_panel"])
def test_a_cone_beam_scan_in_hounsfield_units_has_no_offset(name: str) -> None:
    scan = read_image(CONE_BEAM / f"{name}.nii.gz")
    assert hounsfield_offset(scan) == 0
    assert hounsfield_offset(replace(scan, data=scan.data + 1024)) == 1024


def test_images_that_are_no_ct_have_no_offset() -> None:
    image = stored("fixed")
    assert hounsfield_offset(image) == 0
    eight_bits = ((image.data + 1000) / 1500 * 255).clamp(0, 255).round()
    assert hounsfield_offset(replace(image, data=eight_bits, dtype="uint8")) == 0
    assert hounsfield_offset(replace(image, data=(image.data + 1000) / 5e4)) == 0
    rng = np.random.default_rng(0)
    contrasts = torch.from_numpy(rng.choice([0, 300, 700, 1100], image.data.shape)).float()
    assert hounsfield_offset(replace(image, data=contrasts)) == 0, "tissues of many levels, as MR"


def test_what_the_user_sets_holds_in_the_images_own_numbers() -> None:
    config = load_config("thorax", {"similarity.intensity_range": [0, 2000], "fill": 0})
    assert config.hounsfield == ()
    assert clip_limits(config, 1024.0) == (0.0, 2000.0)
    assert Numbers(0.0, 1024.0).with_fill(config).fill == 0.0
    assert clip_limits(load_config("lung", {"fill": 0}), 1024.0) == (24.0, 1524.0)
    image = stored("moving", 1024.0)
    assert Numbers.of(config, image, image) == Numbers()


def test_the_expected_error_sees_the_same_intensities() -> None:
    plain, found = registered(0.0, 0.0), registered(0.0, 1024.0)
    assert torch.equal(_side(found.moving, found).image, _side(plain.moving, plain).image)


def test_the_files_of_a_run_tell_it(tmp_path: Path) -> None:
    registered(0.0, 1024.0).save(tmp_path / "run", report=False)
    tables = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert any("Hounsfield units +1024" in note for note in tables["notes"])
    warped = read_image(tmp_path / "run" / "warped.nii.gz")
    assert warped.dtype == "uint16"
    assert float(warped.data.median()) < 400, "air and lung lie at 24 and above"
    assert float(warped.data.max()) > 1500


@pytest.mark.parametrize("padding", [None, -2000.0])
def test_segment_anything_sees_the_same_pictures(padding: float | None) -> None:
    """Also where padding makes numbers with an offset reach below -500."""
    image = stored("fixed")
    if padding is not None:
        image = replace(image, data=padded(image.data, padding))
    both = (image, replace(image, data=image.data + 1024))
    in_hu, shifted = (cut_pictures(one, 0) for one in both)
    for ours, theirs in zip(in_hu.pixels, shifted.pixels, strict=True):
        assert ours is not None and theirs is not None and torch.equal(ours, theirs)
