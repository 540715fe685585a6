"""Regions whose volume must not change keep it within 1 %, without a fold."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic import Pair, World, save

from iterreg import Grid, Image, LabelMap, Registration, optimize_pair, read_label_map
from iterreg.cli import iterreg
from iterreg.config import Limits
from iterreg.displacement import total_displacement_vox
from iterreg.errors import ConfigError, ExitCode
from iterreg.metrics import ImageSimilarity, folding, volume_change
from iterreg.optimize.field import Field
from iterreg.optimize.pair import Interfaces
from iterreg.optimize.pair import Pair as Sides
from iterreg.optimize.side import Side
from iterreg.optimize.volumes import preserve_volumes, volume_ratio
from iterreg.verdict import Evidence, Status, judge

MINI = Path(__file__).parents[1] / "iterreg" / "data" / "thorax4dct_mini"
ACDC = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data")) / "acdc"
AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def change(run: Registration, name: str) -> float:
    """How much the fixed region's volume changes, as run.json has it."""
    value = next(v for v, n in run.fixed_labels.names.items() if n == name)
    total = total_displacement_vox(run.transform)
    return abs(volume_change(total, run.fixed_labels.data)[value] - 1)


def folds(run: Registration) -> int:
    """Voxels that fold inside regions."""
    return folding(total_displacement_vox(run.transform), run.fixed_labels.data).interior_folds


def lesions(rank: int) -> tuple[dict[str, Image], dict[str, LabelMap]]:
    """Noise with a bright lesion that is 1.5 times as wide in the moving image, and a shift."""
    shape, spacing = (40,) * rank, (2.0,) * rank
    grid = Grid(shape, spacing, (0.0,) * rank, AXES if rank == 3 else ((1.0, 0.0), (0.0, 1.0)))
    place = torch.stack(torch.meshgrid(*[torch.arange(40.0)] * rank, indexing="ij"))
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 5, shape)).float()
    images, labels = {}, {}
    for side, centre, radius in (("fixed", 19.0, 5.0), ("moving", 21.0, 7.5)):
        data = ((place - centre).norm(dim=0) < radius).int()
        data[(data == 0) & ((place - centre).norm(dim=0) < 14)] = 2
        images[side] = Image((noise + 100 * (data == 1) + 40 * (data == 2))[None], grid)
        labels[f"{side}_labels"] = LabelMap(data, grid, {1: "lesion", 2: "organ"})
    return images, labels


@pytest.mark.parametrize("rank", [2, 3])
def test_a_lesion_that_grew_keeps_its_volume(rank: int) -> None:
    images, labels = lesions(rank)
    plain = optimize_pair(**images, **labels, preset="general")
    kept = optimize_pair(
        **images, **labels, preset="general", overrides={"preserve_volume": ["lesion"]}
    )
    assert change(plain, "lesion") > 0.5
    assert change(kept, "lesion") < 0.01 and folds(kept) == 0
    assert abs(kept.verdict.evidence.region_volume["lesion"] - 1) < 0.01
    # The moving lesion, warped, is as large as it was. Its voxels are counted, so a shell of a
    # quarter of a voxel is allowed for.
    warped = int((kept.warp_labels().data == 1).sum()) / int(
        labels["moving_labels"].data.eq(1).sum()
    )
    assert abs(warped ** (1 / rank) - 1) < 0.25 / 7.5
    assert plain.verdict.evidence.region_volume == {}


@pytest.mark.skipif(not ACDC.is_dir(), reason=f"{ACDC} is absent; set ITERREG_DATA")
@pytest.mark.filterwarnings("ignore:.*taken from pixdim:iterreg.io.GeometryWarning")
@pytest.mark.parametrize("phases", [("frame01", "frame12"), ("frame12", "frame01")])
def test_the_myocardium_keeps_its_volume_while_the_heart_beats(phases: tuple[str, str]) -> None:
    names = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
    run = optimize_pair(
        *(ACDC / f"patient068_{phase}.nii.gz" for phase in phases),
        **{
            f"{side}_labels": read_label_map(ACDC / f"patient068_{phase}_gt.nii.gz", names)
            for side, phase in zip(("fixed", "moving"), phases, strict=True)
        },
        preset="cardiac",
        overrides={"preserve_volume": ["myocard*"]},
    )
    assert change(run, "myocardium") < 0.01 and change(run, "left ventricle") > 0.5
    assert folds(run) == 0 and run.status.is_ok
    assert min(run.verdict.evidence.region_dice.values()) > 0.97


def test_a_sliding_lung_keeps_its_volume_without_a_fold() -> None:
    names = {1: "soft tissue", 2: "lung", 3: "bone"}
    run = optimize_pair(
        MINI / "fixed.nii.gz",
        MINI / "moving.nii.gz",
        fixed_labels=read_label_map(MINI / "fixed_labels.nii.gz", names),
        moving_labels=read_label_map(MINI / "moving_labels.nii.gz", names),
        overrides={"preserve_volume": ["lung", "bone"]},
    )
    assert change(run, "lung") < 0.01 and change(run, "bone") < 0.01
    assert folds(run) == 0


def test_an_affine_that_grows_is_made_good() -> None:
    """The total motion keeps the volume, not only the field."""
    shape = (24, 24, 24)
    place = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"))
    labels = ((place - 11.5).norm(dim=0) < 6).int()
    grid = Grid(shape, (2.0, 2.0, 2.0), (-23.0, -23.0, -23.0), AXES)
    side = Side(torch.zeros(1, *shape), labels, torch.ones(shape, dtype=torch.bool), grid)
    pair = Sides(side, side, Interfaces.glued(2), preserved=(1,))
    affine = np.diag([1.1, 1.1, 1.1, 1.0])
    still = Field.zero(side)
    assert volume_ratio(still, pair, affine, 1) == pytest.approx(1.1**3, rel=1e-3)
    kept = preserve_volumes(still, pair, affine)
    assert volume_ratio(kept, pair, affine, 1) == pytest.approx(1, abs=0.002)
    # It dies out: the farthest corner moves a hundredth of what the region does.
    moved = kept.u_mm.norm(dim=0)
    assert float(moved[0, 0, 0]) < 0.1 * float(moved[labels > 0].max())
    # What may not move cannot give the volume back, and the figure says so.
    held = preserve_volumes(still, pair, affine, torch.ones(shape, dtype=torch.bool))
    assert volume_ratio(held, pair, affine, 1) == pytest.approx(1.1**3, rel=1e-3)


def test_the_verdict_names_figure_and_limit() -> None:
    alike = ImageSimilarity(0.98, 0.9, 0.3)
    found = Evidence(
        alike, alike, 0.4, 1.0, 1.0, 1.0, 1.0, 0.9, {}, {}, region_volume={"lesion": 0.97}
    )
    verdict = judge(found, Limits())
    assert verdict.status is Status.DOUBTFUL
    assert verdict.headline == "doubtful: the volume of lesion changes by 3.0 % (limit 1 %)"
    assert judge(found, Limits(most_volume_change_percent=4.0)).status is Status.OK


def test_a_name_that_no_region_has_is_refused() -> None:
    images, labels = lesions(2)
    expected = r"preserve_volume: expected the name of a region \(lesion, organ\), got tumour"
    with pytest.raises(ConfigError, match=expected):
        optimize_pair(
            **images, **labels, preset="general", overrides={"preserve_volume": ["tumour"]}
        )


def test_the_command_keeps_a_volume(tmp_path: Path) -> None:
    pair = Pair.of(World())
    files = save(tmp_path, **pair.images, **pair.labels)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"1": "lower block", "2": "upper block", "3": "ball"}))
    arguments = ["general", "--label-table", str(names), "--out", str(tmp_path / "out")]
    for name, path in files.items():
        arguments += [f"--{name.replace('_', '-')}", str(path)]
    done = CliRunner().invoke(iterreg, [*arguments, "--preserve-volume", "ball", "--no-report"])
    assert done.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL), done.output
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["config"]["preserve_volume"] == ["ball"]
    ratios = {row["name"]: row["volume_change"] for row in run["measures"]["regions"]}
    assert abs(ratios["ball"] - 1) < 0.01
    assert abs(run["verdict"]["evidence"]["region_volume"]["ball"] - 1) < 0.01
    wrong = CliRunner().invoke(iterreg, [*arguments, "--preserve-volume", "cube", "--overwrite"])
    assert wrong.exit_code == ExitCode.CONFIG and "got cube" in wrong.output
