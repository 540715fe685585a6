"""The page: its parts, its text and its pictures, and how a browser takes it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
import torch
from chromium import Page, chromium, find_chromium
from click.testing import CliRunner

from iterreg.cli import iterreg as root_command
from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import ImageReadError
from iterreg.formats.itk import write_transform
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.io import write_image, write_label_map
from iterreg.report import Source, read_folder, write_report
from iterreg.report import page as page_module
from iterreg.report.checks import checks
from iterreg.report.curves import draw_curves
from iterreg.report.field import error_rows, folding_rows, inverse_rows
from iterreg.report.layers import FOLD, SEEN_AFTER, SEEN_BEFORE, SEEN_FIXED
from iterreg.report.provenance import describe_run, list_inputs, timings
from iterreg.report.regions import region_rows
from iterreg.report.slices import Size, cut_stacks
from iterreg.report.space import draw_space
from iterreg.report.sprites import data_uri, sheet
from iterreg.report.verdict import read_verdict

EYE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
SHAPE = (20, 32, 40)
EVIL = "<script>alert('x')</script>"
SMALL = Size(64, 8)


def volume(shift: int = 0) -> torch.Tensor:
    """A bright body with a dark lung that ends ``shift`` voxels lower, (*shape)."""
    data = torch.full(SHAPE, -1000.0)
    data[2:-2, 4:-4, 4:-4] = 40.0
    data[6 - shift : 14, 10:22, 8:18] = -800.0
    data[4:16, 14:18, 24:30] = 700.0
    texture = torch.from_numpy(np.random.default_rng(0).normal(0, 10, SHAPE)).float()
    # Air has noise too, or constant slices would count as padding.
    return data + texture * torch.where(data > -900, 1.0, 0.3)


def grid() -> Grid:
    return Grid(SHAPE, (2.0, 2.0, 3.0), (10.0, -20.0, 30.0), EYE)


def tables(**more: Any) -> dict[str, Any]:
    """What ``run.json`` holds."""
    region = {"value": 1, "name": EVIL, "dice_before": 0.8, "dice_after": 0.95}
    region |= {"hd95_before_mm": 6.0, "hd95_after_mm": 2.0, "coverage": None}
    return {
        "schema": 1,
        "verdict": {
            "status": "doubtful",
            "reasons": [
                {
                    "kind": "consistency",
                    "message": f"there and back differ {EVIL}",
                    "figure": 7.25,
                    "limit": 3.0,
                    "unit": "mm",
                    "advice": "look at the lower lung",
                }
            ],
            "evidence": {"after": {"ncc": 0.91}, "inconsistency_median_mm": 7.25, "gap_mm": None},
        },
        "fixed": {"file": f"{EVIL}.nii.gz", "sha256": "ab" * 32},
        "moving": {"file": "moving.nii.gz"},
        "regions": {"1": EVIL},
        "measures": {
            "before": "identity in physical space",
            "regions": [region],
            "without_partner": ["bone"],
            "folding": {
                "interior_folds": 0,
                "interior_voxels": 900,
                "interface_folds": 3,
                "interface_voxels": 100,
                "ndv_vox": 1.5,
                "ndv_percent": 0.15,
            },
            "sdlogj": 0.1,
            "sdlogj_interior": 0.08,
            "tre_after": None,
        },
        "field_of_view": {"fixed": "whole: 100 % of the image"},
        "notes": [f"note {EVIL}"],
        "config": {"name": "thorax", "smoothness": {"weight": 0.05}},
        "versions": {"iterreg": "0.1.0"},
        "timings_s": {"read": 0.25, "level 1": 2.0},
        "history": [
            {
                "spacing_zyx_mm": [4.0, 4.0, 4.0],
                "similarity": [1.0, 0.5],
                "overlap": [0.0, 0.0],
                "smoothness": [0.0, 0.1],
                "converged": False,
            }
        ],
    } | more


def source(**more: Any) -> Source:
    """A pair whose moving image ends early and whose field folds at one voxel."""
    where = grid()
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[6:14, 10:22, 8:18] = 1
    vox = torch.zeros(3, *SHAPE)
    vox[0, 6:14, 10:22, 8:18] = 0.5
    vox[2, 10, 16, 26] = -2.5
    low = Grid((16, *SHAPE[1:]), where.spacing_xyz_mm, where.origin_lps_mm, EYE)
    moving = Image(volume(2)[None, :16], low, name="moving.nii.gz")
    fixed = Image(volume()[None], where, name="fixed.nii.gz")
    error = Image(torch.rand(1, *SHAPE) * 4, where)
    known: dict[str, Any] = {
        "tables": tables(),
        "transform": Transform(np.eye(4), DisplacementField(vox, where)),
        "images": (fixed, moving),
        "labels": (
            LabelMap(labels, where, {1: EVIL}),
            LabelMap(labels[:16].contiguous(), low, {1: EVIL}),
        ),
        "expected_error": error,
        "folder": "result folder",
    }
    return Source(**(known | more))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of :func:`source`."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, source())
    return path


class Outline(HTMLParser):
    """Counts elements, and keeps addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_one_offline_file(page: Path) -> None:
    text = page.read_text("utf-8")
    outline = Outline(text)
    assert all(a.startswith(("#", "data:")) for a in outline.addresses), outline.addresses
    assert "http://" not in text and "https://" not in text
    assert len(text.encode()) < 5_000_000
    assert not {"iframe", "object", "embed"} & set(outline.tags)
    assert [f"#{i}" for i in ("verdict", "space", "slices", "regions", "energy", "field")] + [
        "#checks",
        "#provenance",
    ] == [a for a in outline.addresses if a.startswith("#")]
    assert len(set(outline.ids)) == len(outline.ids)


def test_the_browser_may_run_the_viewer_and_nothing_else(page: Path) -> None:
    text = page.read_text("utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]


def test_text_from_files_stays_text(page: Path) -> None:
    text = page.read_text("utf-8")
    assert EVIL not in text
    outline = Outline(text)
    assert outline.tags.count("script") == 2  # data and viewer
    shown = " ".join(outline.words)
    for part in (f"{EVIL}.nii.gz", f"note {EVIL}", f"there and back differ {EVIL}"):
        assert part in shown


def test_every_figure_has_its_unit(page: Path) -> None:
    shown = " ".join(" ".join(Outline(page.read_text("utf-8")).words).split())
    for part in (
        "7.25 mm 3 mm look at the lower lung",
        "inconsistency median 7.25 mm",
        "gap not measured",
        "0 of 900 voxels (0 %)",
        "1.50 voxels (0.15 % of the voxels)",
        "40 x 32 x 20 voxels",
        "In one image only, and not compared: bone.",
        "all steps used before it converged",
        "ab" * 32,
        "smoothness.weight 0.05",
    ):
        assert part in shown, part
    assert "Command line not recorded" in shown
    assert "score" not in shown


def test_verdict_of_both_forms() -> None:
    assert read_verdict({"verdict": {"status": "ok", "reasons": []}}).status == "ok"
    old = {"name": "INTERIOR_FOLDS", "ok": False, "message": "interior folds remain"}
    verdict = read_verdict({"status": old})
    assert verdict.status == "doubtful"
    assert [reason.message for reason in verdict.reasons] == ["interior folds remain"]
    fine = read_verdict({"status": {"name": "OK", "ok": True, "message": "ok"}})
    assert fine.status == "none" and not fine.reasons  # the old "ok" checked nothing
    assert read_verdict({}).title == "no verdict"
    shown = read_verdict(tables())
    assert (shown.reasons[0].figure, shown.reasons[0].limit) == ("7.25 mm", "3 mm")
    assert dict(shown.evidence)["after ncc"] == "0.91"


def test_damaged_tables_still_make_a_page(tmp_path: Path) -> None:
    broken = {"verdict": 3, "measures": [], "history": "no", "config": None, "notes": "x"}
    for content in ({}, broken, {"verdict": {"status": "maybe", "reasons": ["x"]}}):
        write_report(tmp_path / "report.html", source(tables=content, labels=None))
        assert "Registration report" in (tmp_path / "report.html").read_text("utf-8")


def test_slices_know_what_is_seen_and_what_folds() -> None:
    stacks = cut_stacks(source(), SMALL)
    assert stacks is not None
    assert [p.name for p in stacks.planes] == ["axial", "coronal", "sagittal"]
    for plane in stacks.planes:
        count, rows, columns = plane.layers["fixed"].shape
        assert count == len(plane.positions) <= SMALL.slices
        assert max(rows, columns) <= SMALL.pixels
        assert {layer.shape for layer in plane.layers.values()} == {(count, rows, columns)}
        assert all(layer.dtype == np.uint8 for layer in plane.layers.values())
        assert (plane.layers["flags"] & SEEN_FIXED).all()
    axial, coronal, _ = stacks.planes
    top = np.asarray(axial.positions) > 30 + 3 * 15.5  # the moving image ends below
    assert top.any() and not top.all()
    seen = (axial.layers["flags"] & SEEN_BEFORE).astype(bool)
    assert not seen[top].any()
    assert seen[~top].all()
    assert not (coronal.layers["flags"][:, 0] & SEEN_AFTER).any()  # the head is up
    assert (coronal.layers["flags"][:, -1] & SEEN_AFTER).all()


def test_folds_are_marked_on_their_slice() -> None:
    stacks = cut_stacks(source(), Size(64, 40))
    assert stacks is not None
    axial = stacks.planes[0]
    folded = (axial.layers["flags"] & FOLD).astype(bool).any((1, 2))
    at = 30.0 + 3.0 * 10
    assert folded.any()
    for position, fold in zip(axial.positions, folded, strict=True):
        assert not fold or abs(position - at) <= 3.1


def test_motion_is_shown_in_mm() -> None:
    stacks = cut_stacks(source(), Size(64, 40))
    assert stacks is not None
    coronal = stacks.planes[1]
    inside = coronal.layers["labels"] == 1
    step = stacks.motion_mm / 127
    rows_mm = (coronal.layers["rows"].astype(float) - 128) * step
    assert np.median(rows_mm[inside]) == pytest.approx(-1.5, abs=step)  # upwards on the page
    assert np.abs(rows_mm[~inside]).max() <= step


def test_sheets_keep_numbers() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 7, 9), dtype=np.uint8)
    picture, across = sheet(frames)
    address = data_uri(picture, lossy=False)
    packed = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    back = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_UNCHANGED)
    for k, frame in enumerate(frames):
        y, x = divmod(k, across)
        assert (back[7 * y : 7 * y + 7, 9 * x : 9 * x + 9] == frame).all()


def test_a_large_pair_gets_smaller_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path / "large.html", source())
    whole = (tmp_path / "large.html").stat().st_size
    monkeypatch.setattr(page_module, "MOST_BYTES", whole - 1000)
    monkeypatch.setattr(page_module, "SIZES", (Size(256, 24), Size(24, 4)))
    write_report(tmp_path / "small.html", source())
    assert (tmp_path / "small.html").stat().st_size < whole - 1000


def test_boxes_are_drawn_in_mm() -> None:
    pair = source()
    fov = torch.ones(SHAPE, dtype=torch.bool)
    fov[:, :10] = False
    pair.__dict__["fovs"] = (fov, torch.ones(16, *SHAPE[1:], dtype=torch.bool))
    views = draw_space(pair)
    assert [v.name for v in views] == ["Axial", "Coronal", "Sagittal"]
    for view in views:
        assert [o.kind for o in view.outlines] == ["fixed view", "fixed box", "moving box"]
    sizes = {}
    for outline in views[1].outlines:
        points = np.array([p.split(",") for p in outline.points.split()], float)
        sizes[outline.kind] = np.ptp(points, axis=0)
    wide, tall = sizes["fixed box"]
    assert wide / tall == pytest.approx(40 * 2.0 / (20 * 3.0), rel=0.01)
    assert sizes["moving box"][1] / tall == pytest.approx(16 / 20, rel=0.01)
    assert "the moving image spans 9 to 89 along x, 28 to 76 along z" in views[1].description


def test_region_rows_fill_what_the_tables_lack() -> None:
    row = region_rows(source())[0]
    assert row.dice == ("0.800", "0.950")
    cell = 2 * 2 * 3 / 1000
    assert row.volumes[0] == f"{8 * 12 * 10 * cell:.1f} ml"
    assert row.coverage.endswith(" %")
    assert row.volume_change.startswith("x ")
    assert row.mean_surface[1].endswith(" mm")
    bare = region_rows(source(labels=None))[0]
    assert bare.coverage == bare.volumes[0] == "not measured"
    given = tables()
    given["measures"]["regions"][0] |= {"coverage": 0.5, "volume_change": 1.25}
    row = region_rows(source(tables=given))[0]
    assert (row.coverage, row.volume_change) == ("50.0 %", "x 1.250 of x 1.000")


def test_curves_leave_out_terms_that_are_zero() -> None:
    (level,) = draw_curves(tables())
    assert [c.term for c in level.curves] == ["total", "similarity", "smoothness"]
    assert level.steps == 1
    assert draw_curves({"history": [{"similarity": ["x"]}]}) == ()


def test_provenance_reads_what_there_is() -> None:
    content = tables(
        command_line=["iterreg", "thorax"],
        inputs={"fixed_labels": {"file": "l.nii.gz", "sha256": "ff"}},
        date="2026-01-01",
    )
    assert dict(describe_run(content))["Command line"] == "iterreg thorax"
    assert list_inputs(content) == [("fixed labels", "l.nii.gz", "ff")]
    assert list_inputs(tables())[1] == ("moving", "moving.nii.gz", "not recorded")
    assert timings(tables())[-1] == ("total", "2.2 s")


def test_the_inverse_and_a_known_field_have_their_rows() -> None:
    part = {"voxels": 50, "median_mm": 0.1, "p95_mm": 1.0, "max_mm": 3.0}
    nothing = {"voxels": 0, "median_mm": None, "p95_mm": None, "max_mm": None}
    content = tables(
        inverse={
            "domain": part | {"voxels": 1000},
            "gap": part,
            "overlap": nothing,
            "blended": part,
        }
    )
    shown = {name: value for name, value, _ in inverse_rows(content)}
    assert shown["Inverse, residual, 95th percentile"] == "1.0000 mm"
    assert shown["Inverse, gap"] == "50 of 1000 voxels (5 %), residual up to 3.00 mm"
    assert shown["Inverse, overlap"] == "0 of 1000 voxels (0 %)"
    assert inverse_rows(tables()) == [] and error_rows(tables()) == []
    error = {"overall": {"count": 9, "mean_mm": 1.5, "p95_mm": 2.0, "max_mm": 4.0}, "by_label": {}}
    content["measures"] |= {"field_error_before": None, "field_error_after": error}
    assert error_rows(content)[0][:2] == ("Error after, mean", "1.50 mm")
    phantom = next(c for c in checks(source(tables=content)) if c.name == "Digital phantom")
    assert phantom.done and "over 9 voxels" in phantom.finding


def test_without_label_maps_nothing_is_said_of_interfaces() -> None:
    content = tables()
    content["measures"]["folding"] |= {"interface_voxels": 0, "interface_folds": 0}
    names = [name for name, _, _ in folding_rows(content)]
    assert names[:2] == ["Folded voxels", "Non-diffeomorphic volume (NDV)"]


def test_kinds_of_test_are_filled_or_name_a_command_that_exists() -> None:
    found = {check.name: check for check in checks(source())}
    assert [name for name, check in found.items() if check.done] == [
        "Contour overlap",
        "Jacobian",
        "Consistency",
    ]
    every = [*checks(source(tables={})), *found.values()]
    context = click.Context(root_command)
    for check in every:
        assert check.done or check.command or check.by_eye, check.name
        for line in check.command.splitlines():
            program, name, *words = shlex.split(line)
            assert program == "iterreg"
            command = root_command.get_command(context, name)
            assert command is not None, name
            options = {o for p in command.params for o in p.opts}
            assert {w for w in words if w.startswith("--")} <= options, line
    assert "'result folder/transform.h5'" in found["Landmark error"].command


def result_folder(folder: Path, pair: Source) -> None:
    """Write what an older run left behind; its images lie beside the folder's files."""
    assert pair.images is not None and pair.labels is not None
    content = tables(fixed={"file": "/gone/fixed.nii.gz"}, moving={"file": "/gone/moving.nii.gz"})
    (folder / "run.json").write_text(json.dumps(content), "utf-8")
    write_transform(pair.transform, folder / "transform.h5")
    for side, image, labels in zip(("fixed", "moving"), pair.images, pair.labels, strict=True):
        write_image(image, folder / f"{side}.nii.gz")
        write_label_map(labels, folder / f"{side}_regions.nii.gz")


def test_the_command_makes_the_page_of_an_older_result(tmp_path: Path) -> None:
    result_folder(tmp_path, source())
    ran = CliRunner().invoke(root_command, ["report", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert 'id="viewer-data"' in (tmp_path / "report.html").read_text("utf-8")
    again = CliRunner().invoke(root_command, ["report", str(tmp_path)])
    assert again.exit_code == 7
    for side in ("fixed", "moving"):
        (tmp_path / f"{side}.nii.gz").rename(tmp_path / f"{side}_elsewhere.nii.gz")
    blind = CliRunner().invoke(root_command, ["report", str(tmp_path), "--overwrite"])
    assert blind.exit_code == 0 and "Add --fixed and --moving" in " ".join(blind.output.split())
    assert 'id="viewer-data"' not in (tmp_path / "report.html").read_text("utf-8")
    words = ["--fixed", tmp_path / "fixed_elsewhere.nii.gz"]
    words += ["--moving", tmp_path / "moving_elsewhere.nii.gz", "--out", tmp_path / "page.html"]
    named = CliRunner().invoke(root_command, ["report", str(tmp_path), *map(str, words)])
    assert named.exit_code == 0, named.output
    assert 'id="viewer-data"' in (tmp_path / "page.html").read_text("utf-8")


def test_a_folder_that_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"run\.json: no such file"):
        read_folder(tmp_path)
    (tmp_path / "run.json").write_text("[]", "utf-8")
    with pytest.raises(ImageReadError, match=r"expected the run\.json of a result"):
        read_folder(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 2}', "utf-8")
    with pytest.raises(ImageReadError, match=r"transform\.h5: no such file"):
        read_folder(tmp_path)


def test_a_good_page_outlives_a_spoiled_run_file(tmp_path: Path) -> None:
    result_folder(tmp_path, source())
    (tmp_path / "run.json").write_text("{}", "utf-8")
    (tmp_path / "report.html").write_text("good", "utf-8")
    ran = CliRunner().invoke(root_command, ["report", str(tmp_path), "--overwrite"])
    assert ran.exit_code == ImageReadError.exit_code and "schema" in ran.output
    assert (tmp_path / "report.html").read_text("utf-8") == "good"
    gone = CliRunner().invoke(root_command, ["report", str(tmp_path / "nosuch")])
    assert "nosuch: no such folder; expected the folder of a result" in gone.output


def test_evaluate_writes_the_page(tmp_path: Path) -> None:
    result_folder(tmp_path, source())
    words = ["evaluate", "--transform", tmp_path / "transform.h5", "--html", tmp_path / "e.html"]
    for side in ("fixed", "moving"):
        words += [f"--{side}-labels", tmp_path / f"{side}_regions.nii.gz"]
        words += [f"--{side}", tmp_path / f"{side}.nii.gz"]
    ran = CliRunner().invoke(root_command, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    shown = "".join(Outline((tmp_path / "e.html").read_text("utf-8")).words)
    assert "Only a registration gives a verdict" in shown
    assert "These are the label maps that were given" in shown


def picture_pair() -> Source:
    """Two colour pictures without a spacing."""
    where = Grid((90, 120), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    image = Image(torch.rand(3, 90, 120), where)
    still = Transform(np.eye(3), DisplacementField.zero(where))
    return Source({}, still, (image, image))


def test_pictures_have_one_plane(tmp_path: Path) -> None:
    stacks = cut_stacks(picture_pair(), SMALL)
    assert stacks is not None
    assert [(p.name, len(p.positions)) for p in stacks.planes] == [("picture", 1)]
    write_report(tmp_path / "report.html", picture_pair())


def test_colours_of_the_page_are_not_red_and_green() -> None:
    import colorsys

    style = (Path(page_module.__file__).parent / "template" / "page.css").read_text("utf-8")
    for colour in re.findall(r"--(?:ok|doubtful|failed): #([0-9a-f]{6})", style):
        red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (0, 2, 4))
        hue = 360 * colorsys.rgb_to_hsv(red, green, blue)[0]
        assert not (hue < 15 or hue > 345 or 75 < hue < 170), colour


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A headless Chromium."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on this machine")
    with chromium(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


DRAWING = "document.getElementById('canvas-{}').toDataURL()"


def test_a_browser_shows_every_mode(browser: Page, page: Path) -> None:
    browser.open(page.as_uri())
    modes = browser.evaluate(
        "[...document.querySelectorAll('#modes input')].map((input) => input.value)"
    )
    assert len(modes) == 10 and "error" in modes
    pictures = {}
    for mode in modes:
        browser.evaluate(f"document.querySelector('#modes input[value={mode}]').click()")
        browser.wait(f"document.documentElement.dataset.drawn === '{mode}'")
        pictures[mode] = browser.evaluate(DRAWING.format("coronal"))
        label = browser.evaluate(
            "document.getElementById('canvas-coronal').getAttribute('aria-label')"
        )
        assert label.startswith("Coronal plane, slice ")
    assert len(set(pictures.values())) >= len(modes) - 1  # flicker starts with the fixed image
    browser.evaluate("document.querySelector('#modes input[value=warped]').click()")
    browser.wait("document.documentElement.dataset.drawn === 'warped'")
    plain = browser.evaluate(DRAWING.format("axial"))
    browser.evaluate("document.getElementById('outline').click()")
    browser.wait(f"{DRAWING.format('axial')} !== {json.dumps(plain)}")
    assert EVIL in browser.evaluate("document.getElementById('legend').textContent")
    assert browser.complaints == []
    remote = [r for r in browser.requests if not r.startswith(("file:", "data:", "about:"))]
    assert remote == []


def test_the_keyboard_moves_the_slider_and_the_switch(browser: Page, page: Path) -> None:
    browser.open(page.as_uri() + "#mode=warped&axial=0")
    value = "document.getElementById('slider-axial').value"
    assert browser.evaluate(value) == "0"
    picture = browser.evaluate(DRAWING.format("axial"))
    browser.evaluate("document.getElementById('slider-axial').focus()")
    for _ in range(4):
        browser.press("ArrowRight", 39)
    browser.wait(f"{value} === '4'")
    browser.wait(f"{DRAWING.format('axial')} !== {json.dumps(picture)}")
    assert "axial=4" in browser.evaluate("location.hash")
    browser.evaluate("document.querySelector('#modes input:checked').focus()")
    browser.press("ArrowRight", 39)
    browser.wait("document.querySelector('#modes input:checked').value === 'flicker'")
    assert browser.evaluate("document.getElementById('swap').hidden") is False
    first = browser.evaluate(DRAWING.format("coronal"))
    browser.wait(f"{DRAWING.format('coronal')} !== {json.dumps(first)}")
    assert browser.complaints == []


def test_what_is_not_seen_is_hatched_in_the_browser(browser: Page, page: Path) -> None:
    """Above the moving image the difference has no hue; inside it has."""
    browser.open(page.as_uri() + "#mode=difference-before&coronal=12")
    hue = (
        "(() => { const c = document.getElementById('canvas-coronal');"
        "const rows = Math.floor(c.height / 20), g = c.getContext('2d');"
        "const most = (y, h) => { const d = g.getImageData(0, y, c.width, h).data; let m = 0;"
        "for (let k = 0; k < d.length; k += 4) m = Math.max(m, Math.abs(d[k] - d[k + 2]));"
        "return m; }; return [most(0, 3 * rows), most(5 * rows, 12 * rows)]; })()"
    )
    above, inside = browser.evaluate(hue)
    assert above <= 2
    assert inside > 40
    assert browser.complaints == []


def test_paper_gets_a_contact_sheet(browser: Page, page: Path, tmp_path: Path) -> None:
    browser.open(page.as_uri())
    browser.print_pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"
    assert browser.evaluate("document.querySelectorAll('#contact canvas').length") == 7 * 3
    assert browser.evaluate("[...document.querySelectorAll('details')].every((d) => d.open)")
    assert browser.complaints == []


def test_a_browser_shows_pictures_and_pages_without_images(browser: Page, tmp_path: Path) -> None:
    write_report(tmp_path / "flat.html", picture_pair())
    browser.open((tmp_path / "flat.html").as_uri())
    assert browser.evaluate("document.querySelectorAll('#planes canvas').length") == 1
    write_report(tmp_path / "blind.html", replace(picture_pair(), images=None))
    browser.open((tmp_path / "blind.html").as_uri())
    assert browser.evaluate("document.querySelectorAll('canvas').length") == 0
    assert browser.complaints == []
