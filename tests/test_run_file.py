"""What a result carries: every key of ``run.json``, its inputs' digests, and the inverse."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import docutils.core
import docutils.nodes
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from synthetic import Pair, World, places_lps, save

from iterreg import Registration
from iterreg.atomic import OutputFolder
from iterreg.cli import iterreg
from iterreg.errors import ExitCode
from iterreg.geometry import Points
from iterreg.image import LabelMap
from iterreg.inverse import InverseStatus, inverse_residual, invert_points
from iterreg.io import write_points
from iterreg.outputs import write_run
from iterreg.pair import optimize_pair
from iterreg.provenance import Provenance, sha256_of
from iterreg.verdict import Kind, Reason

PAGE = Path(__file__).parents[1] / "docs" / "run-json.rst"
KINDS = {
    "text": str,
    "whole number": int,
    "number": (int, float),
    "true/false": bool,
    "list": list,
    "table": dict,
    "null": type(None),
}
ONE_STEP = {"levels.steps": [1, 1, 1]}
OF_SAMREG = {"matching"}
"""``iterreg samreg`` alone writes it, and needs a network's weights."""


class Carried(NamedTuple):
    """A run with every kind of input, and an evaluation of it."""

    folder: Path
    arguments: list[str]
    tables: dict[str, Any]
    evaluated: dict[str, Any]


def call(*arguments: object) -> str:
    """Run a command that should write its results, and return what it printed."""
    result = CliRunner().invoke(iterreg, [str(a) for a in arguments])
    assert result.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL, ExitCode.FAILED), result.output
    return result.stdout


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Carried:
    """Two oblique, anisotropic images whose blocks slide, registered by the command."""
    folder = tmp_path_factory.mktemp("carried")
    pair = Pair.of(World(slide_mm=1.5))
    everywhere = {
        f"{side}_mask": LabelMap(torch.ones(image.grid.shape_zyx, dtype=torch.int32), image.grid)
        for side, image in pair.images.items()
    }
    files: dict[str, object] = {**save(folder, **pair.images, **pair.labels, **everywhere)}
    inside = places_lps(pair.fixed.grid)[3:-3:3, 6:-6:7, 8:-8:12].reshape(-1, 3)
    true = inside + pair.truth_mm()[3:-3:3, 6:-6:7, 8:-8:12].reshape(-1, 3)
    for side, points in (("fixed", inside), ("moving", true)):
        files[f"{side}_landmarks"] = folder / f"{side}.csv"
        write_points(Points(points), folder / f"{side}.csv")
    files["initial_transform"] = folder / "start.tfm"
    sitk.WriteTransform(sitk.AffineTransform(3), str(folder / "start.tfm"))
    files["preset"] = folder / "mine.toml"
    (folder / "mine.toml").write_text(call("presets", "show", "general"))
    files["label_table"] = folder / "names.json"
    (folder / "names.json").write_text('{"lower": 1, "upper": 2, "ball": 3}')
    arguments = ["register", "--out", str(folder / "out"), "--save-inverse", "--rigid-first"]
    for role, file in files.items():
        arguments += [f"--{role.replace('_', '-')}", str(file)]
    call(*arguments)
    known = ["--transform", folder / "start.tfm", "--known-field", folder / "out" / "transform.h5"]
    labels = [f"--{s}-labels={files[f'{s}_labels']}" for s in ("fixed", "moving")]
    call("evaluate", *known, *labels, "--json", folder / "numbers.json")
    read = (json.loads(p.read_text()) for p in (folder / "out/run.json", folder / "numbers.json"))
    return Carried(folder, arguments, *read)


# The keys of run.json --------------------------------------------------------------------------


def documented() -> dict[str, str]:
    """Every key that the page lists, ``*`` for any name, and its type."""
    tree = docutils.core.publish_doctree(
        PAGE.read_text("utf-8"), settings_overrides={"_disable_config": True}
    )
    keys: dict[str, str] = {}
    groups: dict[str, str] = {}
    for section in tree.findall(docutils.nodes.section):
        title = section.next_node(docutils.nodes.title)
        above = [n.astext() + "." for n in title.findall(docutils.nodes.literal)] or [""]
        # A table of any name, such as a role of the inputs, is listed by its section.
        groups |= {name[:-1]: "table" for name in above if name.endswith(".*.")}
        for body in section.findall(docutils.nodes.tbody):
            for row in body.findall(docutils.nodes.row):
                name, kind, meaning = row.findall(docutils.nodes.entry)
                assert meaning.astext().strip()
                for key in name.findall(docutils.nodes.literal):
                    keys |= {before + key.astext(): kind.astext() for before in above}
    return groups | keys


def leaves(tables: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, tables themselves included; a list's tables under ``[]``."""
    for key, value in tables.items():
        # Names may hold dots and spaces; what counts is that they are one part.
        path = above + re.sub(r"[.\s]", "_", key)
        yield path, value
        if isinstance(value, dict):
            yield from leaves(value, f"{path}.")
        for row in value if isinstance(value, list) else ():
            if isinstance(row, dict):
                yield from leaves(row, f"{path}[].")


def fits(key: str, pattern: str) -> bool:
    parts = re.escape(pattern).replace(r"\*", r"[^.\[\]]+")
    return re.fullmatch(parts, key) is not None


def test_the_page_lists_every_key_of_a_run_with_its_type_and_no_other(carried: Carried) -> None:
    known = documented()
    rows = list(leaves(carried.tables))
    errors = {k: v for k, v in carried.evaluated.items() if k.startswith("field_error")}
    rows += leaves({"measures": errors})
    reason = Reason(Kind.VIEW, "12 % of the fixed image has a partner", 0.12, 0.25)
    rows += leaves({"verdict": {"reasons": [reason.to_dict()]}})
    rows += leaves({"dissolved": {"airways": "the images show different pieces of it"}})
    rows += leaves({"verdict": {"evidence": {"region_volume": {"lesion": 1.002}}}})
    used = set()
    for key, value in rows:
        patterns = [p for p in known if fits(key, p)]
        assert patterns, f"docs/run-json.rst does not list {key}"
        used |= set(patterns)
        for pattern in patterns:
            kinds = [KINDS[kind] for kind in known[pattern].split(" or ")]
            is_flag = isinstance(value, bool) and bool not in kinds
            assert not is_flag and any(isinstance(value, k) for k in kinds), (key, value)
    assert set(known) - used == OF_SAMREG
    assert len(rows) > 150


def test_a_run_says_where_it_comes_from(carried: Carried) -> None:
    run = carried.tables
    assert run["command_line"] == ["iterreg", *carried.arguments]
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(run["date"])).days) < 1
    assert datetime.fromisoformat(run["date"]).tzinfo is not None
    given = dict(zip(carried.arguments[5::2], carried.arguments[6::2], strict=True))
    assert set(run["inputs"]) == {name[2:].replace("-", "_") for name in given}
    for role, entry in run["inputs"].items():
        file = given[f"--{role.replace('_', '-')}"]
        assert entry["file"] == file
        printed = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True)
        assert entry["sha256"] == printed.stdout.split()[0]
    assert {region["coverage"] is not None for region in run["measures"]["regions"]} == {True}
    assert set(carried.evaluated["inputs"]) == {
        *("transform", "fixed_labels", "moving_labels", "known_field")
    }


def test_presets_that_come_with_iterreg_are_no_input(carried: Carried, tmp_path: Path) -> None:
    arguments = ["general", "--fixed", carried.folder / "fixed.nii.gz"]
    arguments += ["--moving", carried.folder / "moving.nii.gz", "--no-report"]
    call(*arguments, "--out", tmp_path, "--set", "levels.steps=[1, 1, 1]")
    run = json.loads((tmp_path / "run.json").read_text())
    assert list(run["inputs"]) == ["fixed", "moving"] and run["inverse"] is None


def test_images_in_memory_have_no_digest(tmp_path: Path) -> None:
    pair = Pair.of(World())
    run = optimize_pair(
        pair.fixed, pair.moving, preset="general", overrides={"levels.steps": [1] * 3}
    )
    with OutputFolder(tmp_path / "out") as folder:
        write_run(folder, run, report=False)
    tables = json.loads((tmp_path / "out" / "run.json").read_text())
    nothing = {"file": None, "sha256": None}
    assert tables["inputs"] == {"fixed": nothing, "moving": nothing}
    assert tables["command_line"] is None


# Digests ---------------------------------------------------------------------------------------


def sha256sum(command: str, folder: Path) -> str:
    """What a shell prints first."""
    found = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True
    )
    return found.stdout.split()[0]


def test_a_folder_has_one_digest_for_its_files_by_name(tmp_path: Path) -> None:
    for name, content in (("b.dcm", b"1"), ("a.dcm", b"2"), ("Z 1.dcm", b"3"), (".hidden", b"4")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sub").mkdir()
    command = "LC_ALL=C sha256sum *.dcm | sha256sum"
    assert sha256_of(tmp_path) == sha256sum(command, tmp_path)
    (tmp_path / "a.dcm").rename(tmp_path / "c.dcm")
    assert sha256_of(tmp_path) == sha256sum(command, tmp_path)
    (tmp_path / "sub" / "d.dcm").write_bytes(b"5")
    nested = "LC_ALL=C sha256sum $(find * -name '*.dcm' ! -name 'Z*') | sort -k 2 | sha256sum"
    (tmp_path / "Z 1.dcm").unlink()
    assert sha256_of(tmp_path) == sha256sum(f"export LC_ALL=C; {nested}", tmp_path)


def test_a_header_and_its_data_have_one_digest(tmp_path: Path) -> None:
    image = sitk.Image(3, 4, 5, sitk.sitkInt16)
    for header, data in (("a.mhd", "a.raw"), ("b.nhdr", "b.raw")):
        sitk.WriteImage(image, str(tmp_path / header))
        assert (tmp_path / data).is_file()
        command = f"LC_ALL=C sha256sum {header} {data} | sha256sum"
        assert sha256_of(tmp_path / header) == sha256sum(command, tmp_path)
        before = sha256_of(tmp_path / header)
        (tmp_path / data).write_bytes(b"x" + (tmp_path / data).read_bytes()[1:])
        assert sha256_of(tmp_path / header) != before
        (tmp_path / data).unlink()
        assert sha256_of(tmp_path / header) is None
    for whole in ("c.mha", "d.nrrd"):
        sitk.WriteImage(image, str(tmp_path / whole))
        expected = hashlib.sha256((tmp_path / whole).read_bytes()).hexdigest()
        assert sha256_of(tmp_path / whole) == expected


def test_data_in_several_files_have_no_digest(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").write_text("ObjectType = Image\nElementDataFile = LIST\na1.raw\na2.raw\n")
    assert sha256_of(tmp_path / "a.mhd") is None
    assert sha256_of(tmp_path / "none.nii") is None
    gone = Provenance({"fixed": tmp_path / "none.nii"}).tables()["inputs"]["fixed"]
    assert gone == {"file": str(tmp_path / "none.nii"), "sha256": None}


# The inverse -----------------------------------------------------------------------------------


def test_simpleitk_comes_back_by_the_files_of_the_inverse(carried: Carried) -> None:
    out = carried.folder / "out"
    there, back = (
        sitk.ReadTransform(str(out / f)) for f in ("transform.h5", "inverse_transform.h5")
    )
    field = sitk.ReadImage(str(out / "inverse_displacement_mm.nii.gz"), sitk.sitkVectorFloat64)
    status = sitk.ReadImage(str(out / "inverse_status.nii.gz"))
    moving = sitk.ReadImage(str(carried.folder / "moving.nii.gz"))
    for written in (field, status):
        assert written.GetSize() == moving.GetSize()
        np.testing.assert_allclose(written.GetOrigin(), moving.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(written.GetDirection(), moving.GetDirection(), atol=1e-6)
    kinds = sitk.GetArrayFromImage(status)
    residual = np.zeros(kinds.shape)
    for z, y, x in np.ndindex(kinds.shape):
        point = moving.TransformIndexToPhysicalPoint((x, y, z))
        origin = back.TransformPoint(point)
        np.testing.assert_allclose(np.subtract(origin, point), field[x, y, z], atol=2e-3)
        residual[z, y, x] = np.linalg.norm(np.subtract(there.TransformPoint(origin), point))
    ok = kinds == InverseStatus.OK
    assert ok.mean() > 0.5
    assert residual[ok].max() < 0.1 * 3.0 + 1e-3  # a tenth of the longest voxel side
    domain = kinds != InverseStatus.OUTSIDE
    told = carried.tables["inverse"]
    assert told["domain"]["voxels"] == domain.sum()
    for key, share in (("median_mm", 50), ("p95_mm", 95), ("max_mm", 100)):
        assert told["domain"][key] == pytest.approx(
            np.percentile(residual[domain], share), abs=2e-3
        )
    for kind in (InverseStatus.OK, InverseStatus.GAP, InverseStatus.OVERLAP, InverseStatus.BLENDED):
        assert told[kind.name.lower()]["voxels"] == (kinds == kind).sum()
    assert told["outside_voxels"] == (~domain).sum()


def test_the_inverse_holds_between_voxels_too(carried: Carried) -> None:
    out = carried.folder / "out"
    there, back = (
        sitk.ReadTransform(str(out / f)) for f in ("transform.h5", "inverse_transform.h5")
    )
    status = sitk.ReadImage(str(out / "inverse_status.nii.gz"))
    kinds = sitk.GetArrayFromImage(status)
    errors = []
    for z, y, x in np.ndindex(*(n - 1 for n in kinds.shape)):
        if (kinds[z : z + 2, y : y + 2, x : x + 2] == InverseStatus.OK).all():
            point = status.TransformContinuousIndexToPhysicalPoint((x + 0.5, y + 0.5, z + 0.5))
            errors.append(np.subtract(there.TransformPoint(back.TransformPoint(point)), point))
    lengths = np.linalg.norm(errors, axis=1)
    assert len(lengths) > 1000
    assert np.median(lengths) < 0.05 and np.percentile(lengths, 95) < 0.5


@pytest.fixture(scope="module")
def sliding() -> tuple[Registration, Pair]:
    """A result whose blocks slid apart, with its pair."""
    pair = Pair.of(World(slide_mm=2.0))
    run = optimize_pair(
        pair.fixed,
        pair.moving,
        **pair.labels,
        preset="general",
        overrides={"levels.steps": [1] * 3},
    )
    return run, pair


def test_python_inverts_with_the_regions_of_the_run(sliding: tuple[Registration, Pair]) -> None:
    run, pair = sliding
    inverse, status = run.inverse()
    assert inverse.grid.same_space(pair.moving.grid)
    same, _ = run.transform.inverse(pair.moving.grid, run.fixed_labels, run.moving_labels)
    assert torch.equal(inverse.field.vox, same.field.vox)
    residual = inverse_residual(run.transform, inverse, status)
    assert residual.ok.max_mm is not None and residual.ok.max_mm < 0.1 * 3.0
    points = Points(places_lps(pair.moving.grid)[::3, ::5, ::4].reshape(-1, 3))
    found = invert_points(run.transform, points, run.fixed_labels, run.moving_labels)
    kinds = status[::3, ::5, ::4].flatten().tolist()
    assert [int(s) for s in found.status] == kinds


def test_no_answer_is_called_ok_that_leads_astray(sliding: tuple[Registration, Pair]) -> None:
    run, pair = sliding
    _, status = run.inverse()
    points = Points(places_lps(pair.moving.grid).reshape(-1, 3))
    found = invert_points(run.transform, points, run.fixed_labels, run.moving_labels)
    ok = status.flatten().numpy() == InverseStatus.OK
    assert 0.2 < ok.mean() < 1
    assert found.residual_mm[ok].max() < 0.1 * 3.0 + 1e-3
