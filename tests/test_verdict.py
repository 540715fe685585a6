"""The verdict: right pairs are ok, wrong pairs are not, and the reasons name what is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic import INTENSITIES, Pair, World, save

from iterreg import Evidence, Image, Status, load_config, optimize_pair, read_image
from iterreg.cli import iterreg
from iterreg.config import Limits, preset_names
from iterreg.errors import ExitCode
from iterreg.metrics import ImageSimilarity, image_similarity
from iterreg.optimize.orientation import Flip, all_flips
from iterreg.verdict import Kind, judge

ALIKE = ImageSimilarity(0.98, 0.9, 0.3)
GOOD = Evidence(ALIKE, ALIKE, 0.4, 1.0, 1.02, 1.05, 1.0, 0.9, {"lung": 0.95}, {"lung": 0.4})
APART = ImageSimilarity(0.1, 0.1, 0.1)
COARSE = {"levels.spacing_mm": [8.0], "levels.steps": [6]}
LIMITS = Limits(least_ncc=0.8, least_lncc=0.5, least_nmi=0.1, most_inconsistency_p95_mm=7.0)


# The judgement --------------------------------------------------------------------------------


def test_the_95th_percentile_counts_where_the_median_hides_it():
    assert judge(replace(GOOD, inconsistency_p95_mm=6.9), LIMITS).status is Status.OK
    # All points are unsure alike, as on a cone-beam scan.
    unsure = replace(GOOD, inconsistency_median_mm=3.3, inconsistency_p95_mm=9.2)
    assert judge(unsure, LIMITS).status is Status.OK
    part = replace(GOOD, inconsistency_median_mm=1.75, inconsistency_p95_mm=9.2)
    assert judge(part, LIMITS).status is Status.DOUBTFUL
    assert judge(part, Limits()).status is Status.OK


def test_a_figure_that_just_misses_its_limit_is_told_from_it():
    limits = replace(LIMITS, most_inconsistency_mm=3.8, least_region_dice=0.8)
    near = replace(GOOD, inconsistency_median_mm=3.8004, region_dice={"lung": 0.7996})
    regions, consistency = (reason.words for reason in judge(near, limits).reasons)
    assert "Dice of 0.7996 after" in regions and "(limit 0.8)" in regions
    assert "ends 3.8004 mm from where it began (limit 3.8 mm)" in consistency


def test_good_evidence_is_ok():
    verdict = judge(GOOD, LIMITS)
    assert verdict.status is Status.OK and verdict.reasons == () and verdict.headline == "ok"


@pytest.mark.parametrize(
    ("change", "kind", "figure"),
    [
        ({"after": ImageSimilarity(0.7, 0.9, 0.3)}, Kind.SIMILARITY, 0.7),
        ({"before": APART, "after": ImageSimilarity(0.98, 0.4, 0.3)}, Kind.SIMILARITY, 0.4),
        ({"after": ImageSimilarity(0.98, 0.85, 0.3)}, Kind.START, 0.05),
        ({"region_dice_before": {"lung": 0.997}}, Kind.START, 0.047),
        ({"region_dice": {"a": 1.0}, "region_dice_before": {"a": 1.0}}, Kind.LABELS, 0.9),
        ({"after": ImageSimilarity(0.98, 0.9, 0.05)}, Kind.SIMILARITY, 0.05),
        ({"inconsistency_median_mm": 6.0}, Kind.CONSISTENCY, 6.0),
        ({"inconsistency_p95_mm": 9.0}, Kind.CONSISTENCY, 9.0),
        ({"affine_volume": 2.5}, Kind.AFFINE, 2.5),
        ({"affine_volume": 0.3}, Kind.AFFINE, 0.3),
        ({"affine_volume": -1.0}, Kind.AFFINE, -1.0),
        ({"affine_stretch": 1.9}, Kind.AFFINE, 1.9),
        ({"affine_shear_deg": 40.0}, Kind.AFFINE, 40.0),
        ({"common_view": 0.2}, Kind.VIEW, 0.2),
        ({"region_dice": {"lung": 0.3}}, Kind.REGIONS, 0.3),
        ({"landmarks_mm": 9.0}, Kind.LANDMARKS, 9.0),
        ({"interior_folds": 4}, Kind.FOLDS, 4),
    ],
)
def test_each_measure_has_a_reason_of_its_own(change, kind, figure):
    verdict = judge(replace(GOOD, **change), LIMITS)
    (reason,) = verdict.reasons
    assert verdict.status is Status.DOUBTFUL
    assert reason.kind is kind and reason.figure == pytest.approx(figure)
    assert reason.advice and f"{reason.limit:.3g}" in reason.words
    assert verdict.headline == f"doubtful: {reason.words}"


def test_one_label_map_for_both_images_is_told(pair_folder):
    """It holds the field where it begins, and its Dice is perfect."""
    image, labels = pair_folder / "moving.nii.gz", pair_folder / "fixed_labels.nii.gz"
    given = {"fixed_labels": labels, "moving_labels": labels, "device": "cpu"}
    run = optimize_pair(pair_folder / "fixed.nii.gz", image, preset="general", **given)
    assert run.verdict.reasons[0].kind is Kind.LABELS and not run.status.is_ok
    itself = optimize_pair(image, image, preset="general", **given)
    assert itself.status.is_ok


def test_two_kinds_of_reason_fail_a_result_but_one_kind_twice_does_not():
    apart = replace(GOOD, affine_volume=2.5, affine_stretch=1.9)
    assert judge(apart, LIMITS).status is Status.DOUBTFUL
    assert judge(replace(apart, common_view=0.2), LIMITS).status is Status.FAILED


def test_one_figure_far_beyond_its_limit_fails_a_result():
    assert judge(replace(GOOD, inconsistency_median_mm=16.0), LIMITS).status is Status.FAILED
    assert judge(replace(GOOD, common_view=0.01), LIMITS).status is Status.FAILED


def test_what_was_not_measured_is_no_reason():
    unknown = replace(GOOD, inconsistency_median_mm=math.nan, region_dice={})
    assert judge(unknown, LIMITS).status.is_ok


def test_regions_that_end_apart_are_named_with_their_distance():
    far = replace(GOOD, region_dice={"left lung": 0.0}, region_distance_mm={"left lung": 102.4})
    message = judge(far, LIMITS).reasons[0].message
    assert "left lung" in message and "102 mm apart" in message


def test_a_flip_comes_first():
    mirrored = replace(GOOD, common_view=0.2, better_flip="mirrored left to right")
    first = judge(mirrored, LIMITS).reasons[0]
    assert first.kind is Kind.ORIENTATION and "mirrored left to right" in first.message


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_can_doubt_a_result(preset):
    nothing = ImageSimilarity(0.0, 0.0, 0.0)
    found = replace(GOOD, after=nothing, inconsistency_median_mm=1000.0, region_dice={})
    assert judge(found, load_config(preset).verdict).status is Status.FAILED


# The measures ---------------------------------------------------------------------------------


def test_similarity_of_the_same_of_unrelated_and_of_inverted_images():
    random = torch.from_numpy(np.random.default_rng(0).random((12, 14, 16))).float()
    other = torch.from_numpy(np.random.default_rng(1).random((12, 14, 16))).float()
    everywhere = torch.ones(random.shape, dtype=torch.bool)
    same = image_similarity(random, random, everywhere)
    assert same.ncc == pytest.approx(1) and same.lncc > 0.99 and same.nmi == pytest.approx(1)
    unrelated = image_similarity(random, other, everywhere)
    assert abs(unrelated.ncc) < 0.1 and unrelated.lncc < 0.1 and unrelated.nmi < 0.1
    inverted = image_similarity(random, 1 - random, everywhere)
    assert inverted.ncc == pytest.approx(-1) and inverted.lncc > 0.99
    assert inverted.nmi == pytest.approx(1, abs=0.02)


def test_similarity_looks_inside_the_mask_alone():
    random = torch.from_numpy(np.random.default_rng(0).random((12, 14, 16))).float()
    spoiled = random.clone()
    spoiled[6:] = 0
    mask = torch.zeros(random.shape, dtype=torch.bool)
    mask[:6] = True
    assert image_similarity(random, spoiled, mask).ncc == pytest.approx(1)


def test_flips_have_names():
    _, *flips = all_flips(3)
    quarters = [flip for flip in flips if "90 degrees" in flip.words]
    names = {flip.words for flip in flips if flip not in quarters}
    assert len(quarters) == 6 and len(names) == len(flips) - len(quarters)
    assert Flip((0, 1, 2), (1, -1, 1)).words == "mirrored front to back"
    quarter = Flip((0, 2, 1), (1, 1, -1)).words
    assert quarter.startswith("turned by 90 degrees") and "head to foot" in quarter


# Whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chest():
    from importlib import resources

    folder = resources.files("iterreg") / "data" / "thorax4dct_mini"
    return read_image(str(folder / "fixed.nii.gz")), read_image(str(folder / "moving.nii.gz"))


def test_a_mirrored_chest_is_not_ok_and_named(chest):
    fixed, moving = chest
    mirrored = replace(moving, data=moving.data.flip(3))
    found = optimize_pair(fixed, mirrored, preset="thorax", overrides=COARSE)
    assert not found.status.is_ok
    assert found.verdict.evidence.better_flip == "mirrored left to right"
    assert "mirrored left to right" in found.verdict.headline


def slices(image: Image, first: int, last: int) -> Image:
    """Some slices of a volume, where they are in the patient."""
    data = image.data[:, first:last]
    origin = tuple((image.grid.index_to_lps @ [float(first), 0.0, 0.0, 1.0])[:3])
    shape = tuple(data.shape[1:])
    return Image(data, replace(image.grid, shape_zyx=shape, origin_lps_mm=origin))


def test_views_that_overlap_little_are_not_called_mirrored(chest):
    fixed, moving = chest
    count = fixed.data.shape[1]
    for shared in (0.2, 0.35):
        stop, start = round(count * (1 + shared) / 2), round(count * (1 - shared) / 2)
        low, high = slices(fixed, 0, stop), slices(moving, start, count)
        found = optimize_pair(low, high, preset="thorax", overrides=COARSE)
        assert found.verdict.evidence.better_flip == ""
        assert Kind.ORIENTATION not in {reason.kind for reason in found.verdict.reasons}


def test_noise_is_not_ok(chest):
    fixed, moving = chest
    values = np.random.default_rng(0).normal(-500, 300, tuple(moving.data.shape))
    noise = Image(torch.from_numpy(values).float(), moving.grid)
    found = optimize_pair(fixed, noise, preset="general", overrides=COARSE)
    assert found.status is Status.FAILED


def test_a_command_ends_with_the_exit_code_of_its_verdict(tmp_path):
    pair = Pair.of(World(slide_mm=0.0))
    moving = pair.images["moving"]
    values = np.random.default_rng(0).random(tuple(moving.data.shape))
    wrong = replace(moving, data=torch.from_numpy(values).float())
    for name, image, codes in (
        ("right", moving, (ExitCode.OK,)),
        ("wrong", wrong, (ExitCode.DOUBTFUL, ExitCode.FAILED)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        paths = save(folder, fixed=pair.images["fixed"], moving=image)
        given = ["register", "--preset", "general", "--device", "cpu", "--out", folder / "out"]
        given += [
            part for key, value in INTENSITIES.items() for part in ("--set", f"{key}={value}")
        ]
        given += [part for side, path in paths.items() for part in (f"--{side}", path)]
        result = CliRunner().invoke(iterreg, [str(part) for part in given])
        assert result.exit_code in codes, result.output
        verdict = json.loads((folder / "out" / "run.json").read_text())["verdict"]
        assert result.stdout.startswith(f"register: {verdict['status']}")
        assert ExitCode[verdict["status"].upper()] == result.exit_code
        for reason in verdict["reasons"][:4]:
            assert reason["message"] in result.stdout and reason["advice"] in result.stdout
        assert (folder / "out" / "report.html").exists()
