"""Segmenters of other packages: nnU-Net, MONAI, TotalSegmentator, each with a tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from synthetic import Pair, World
from tiny_models import DATASET, tiny_bundle, tiny_nnunet

import iterreg
from iterreg import Image, LabelMap
from iterreg.cli import iterreg as command
from iterreg.config import load_config
from iterreg.errors import (
    ConfigError,
    ExitCode,
    ImageContentError,
    MissingDependencyError,
    SegmentationError,
    WeightsError,
)
from iterreg.io import write_image, write_label_map
from iterreg.regions import totalsegmentator as module
from iterreg.regions.monai_bundle import MonaiBundle, channel_names
from iterreg.regions.nnunet import NnunetModel
from iterreg.regions.nnunet_results import dataset_names, labels_of_results
from iterreg.regions.segmenters import find_regions

QUICK = {"levels.steps": [1] * 3}
NO_WEIGHTS = "the package is not installed; run with it once in a while"


def needs(package: str) -> pytest.MarkDecorator:
    """Skip a test without an optional package; its own warnings do not count."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package}: {NO_WEIGHTS}")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.of(World(slide_mm=1.0))


@pytest.fixture(scope="module")
def files(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both images under nnU-Net's names."""
    folder = tmp_path_factory.mktemp("images")
    paths = {side: folder / f"{side}_0000.nii.gz" for side in ("fixed", "moving")}
    for side, path in paths.items():
        write_image(getattr(pair, side), path)
    return paths


# Results of nnU-Net ----------------------------------------------------------------------------


@pytest.fixture
def results(pair: Pair, tmp_path: Path) -> Path:
    """What nnUNetv2_predict leaves."""
    folder = tmp_path / "results"
    folder.mkdir()
    names = {"background": 0, "lower block": 1, "upper block": 2, "ball": 3}
    (folder / "dataset.json").write_text(json.dumps(DATASET | {"labels": names}))
    write_label_map(pair.fixed_labels, folder / "fixed.nii.gz")
    write_label_map(pair.moving_labels, folder / "moving.nii.gz")
    return folder


def test_results_of_nnunet_are_found_by_the_images_names(pair, files, results, tmp_path):
    segmenter = f"nnunet-results:{results}"
    run = iterreg.optimize_pair(
        files["fixed"],
        files["moving"],
        preset="general",
        overrides={"segmenter": segmenter} | QUICK,
    )
    assert torch.equal(run.fixed_labels.data, pair.fixed_labels.data)
    assert run.moving_labels.names == {1: "lower block", 2: "upper block", 3: "ball"}
    words = [
        "register",
        "--preset",
        "general",
        "--no-report",
        "--quiet",
        "--set",
        "levels.steps=[1,1,1]",
    ]
    words += ["--fixed", files["fixed"], "--moving", files["moving"], "--segmenter", segmenter]
    result = CliRunner().invoke(command, [str(w) for w in (*words, "--out", tmp_path / "out")])
    assert result.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL, ExitCode.FAILED), result.output
    tables = json.loads((tmp_path / "out" / "run.json").read_text())
    assert tables["config"]["segmenter"] == segmenter and tables["regions"]["3"] == "ball"


def test_results_that_are_missing_or_odd_are_told(pair, files, results):
    image = iterreg.read_image(files["moving"])
    (results / "moving.nii.gz").unlink()
    with pytest.raises(
        SegmentationError, match=r"expected its labels in .*moving\.nii\.gz, got fixed"
    ):
        labels_of_results(image, results)
    with pytest.raises(SegmentationError, match="expected its labels"):
        labels_of_results(pair.fixed.__class__(image.data, image.grid, name="in memory"), results)
    with pytest.raises(ConfigError, match="expected a folder of results"):
        labels_of_results(image, results / "none")
    (results / "dataset.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"dataset.json of nnU-Net v2, with labels"):
        labels_of_results(image, results)
    (results / "dataset.json").unlink()
    with pytest.raises(ConfigError, match=r"dataset\.json: expected the dataset\.json"):
        labels_of_results(image, results)


def test_regions_of_nnunet_have_the_numbers_of_their_order(tmp_path):
    path = tmp_path / "dataset.json"
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3}
    path.write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2, 3]}))
    assert dataset_names(path) == {1: "whole", 2: "core", 3: "active"}
    path.write_text(json.dumps({"labels": labels}))
    with pytest.raises(ConfigError, match="regions_class_order with 3 numbers"):
        dataset_names(path)


# What may follow a name ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nnunet", "expected nnunet:FOLDER, got no more"),
        ("nnunet:", "expected nnunet:FOLDER"),
        ("monai", "expected monai:FOLDER"),
        ("thorax-ct:lungs", "expected nothing after its name, got 'lungs'"),
        ("best:x", "segmenter: expected one of none"),
    ],
)
def test_a_name_takes_what_it_needs(pair, spec, words):
    with pytest.raises(ConfigError, match=words):
        find_regions(spec, pair.fixed, pair.moving, "cpu")
    if spec.startswith("best"):
        with pytest.raises(ConfigError, match="expected one of"):
            load_config("general", {"segmenter": spec})
        result = CliRunner().invoke(command, ["thorax", "--segmenter", spec])
        assert result.exit_code == ExitCode.USAGE and "best" in result.output
    else:
        assert load_config("general", {"segmenter": spec}).segmenter == spec


# Models of nnU-Net -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda folder: None, WeightsError, "a trained model of nnU-Net v2.* got no folds"),
        (lambda folder: (folder / "fold_0").mkdir(), WeightsError, "got fold_0 without"),
    ],
)
def test_a_folder_that_is_no_model_is_told(tmp_path, make, error, words):
    make(tmp_path)
    with pytest.raises(error, match=words):
        NnunetModel.load(tmp_path, "cpu")


class Predictor:
    """A stand-in with the calls of nnU-Net's predictor: it labels what is bright."""

    made: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        print("nnU-Net greets")
        Predictor.made = options

    def initialize_from_trained_model_folder(self, folder: str, folds: Any, name: str) -> None:
        Predictor.made |= {"folder": folder, "folds": folds, "name": name}

    def predict_single_npy_array(self, data: Any, properties: Any, *rest: Any) -> Any:
        Predictor.made |= properties
        if data.max() > 1e6:
            raise RuntimeError("shape mismatch\nin layer 3")
        return (data[0] > 350).astype(np.uint8) + 1


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model folder, and a package that runs it."""
    module = types.ModuleType("nnunetv2.inference.predict_from_raw_data")
    module.nnUNetPredictor = Predictor  # type: ignore[attr-defined]
    for name in ("nnunetv2", "nnunetv2.inference"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "checkpoint_best.pth").write_bytes(b"")
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    return tmp_path


def test_a_model_is_called_as_nnunet_wants(pair, stand_in, capsys):
    regions = find_regions(f"nnunet:{stand_in}", pair.fixed, pair.moving, "cpu")
    assert torch.equal(regions.moving.data, (pair.moving.data[0] > 350).int() + 1)
    assert regions.fixed.names == {1: "dark", 2: "bright"}
    made = Predictor.made
    assert made["spacing"] == list(pair.moving.grid.spacing_zyx_mm)
    assert (made["name"], made["folds"]) == ("checkpoint_best.pth", None)
    assert made["device"] == torch.device("cpu") and not made["perform_everything_on_device"]
    assert capsys.readouterr() == ("", "")


def test_a_model_that_fails_or_does_not_fit_is_told(pair, stand_in):
    model = NnunetModel.load(stand_in, "cpu")
    odd = Image(pair.fixed.data + 1e7, pair.fixed.grid, name="odd.nii.gz")
    with pytest.raises(
        SegmentationError, match=r"odd\.nii\.gz: nnU-Net failed: RuntimeError: shape"
    ) as e:
        model.segment(odd)
    assert "\n" not in str(e.value)
    picture = Image.from_array(np.zeros((4, 5)), axes="yx", spacing_xyz_mm=(1, 1))
    with pytest.raises(ImageContentError, match="nnU-Net: expected a volume with one channel"):
        model.segment(picture)
    two = DATASET | {"channel_names": {"0": "T1", "1": "T2"}}
    (stand_in / "dataset.json").write_text(json.dumps(two))
    with pytest.raises(WeightsError, match="images with one channel, got 2"):
        NnunetModel.load(stand_in, "cpu")


@pytest.mark.skipif(importlib.util.find_spec("nnunetv2") is not None, reason="it is installed")
def test_the_error_says_how_to_install_nnunet(pair, tmp_path):
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "checkpoint_final.pth").write_bytes(b"")
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    with pytest.raises(
        MissingDependencyError, match=r"segmenter nnunet needs .*pip install nnunetv2"
    ):
        find_regions(f"nnunet:{tmp_path}", pair.fixed, pair.moving, "cpu")


@needs("nnunetv2")
@pytest.mark.filterwarnings("ignore")
def test_a_real_model_gives_the_labels_that_nnunet_writes(files, tmp_path):
    model = NnunetModel.load(tiny_nnunet(tmp_path / "model"), "cpu")
    written = tmp_path / "written"
    written.mkdir()
    model.predictor.predict_from_files_sequential(
        str(files["fixed"].parent), str(written), save_probabilities=False, overwrite=True
    )
    for side, path in files.items():
        image = iterreg.read_image(path)
        found = model.segment(image)
        expected = iterreg.read_label_map(written / f"{side}.nii.gz")
        assert torch.equal(found.data, expected.data) and len(found.values) > 1
        assert torch.equal(labels_of_results(image, written).data, expected.data)
        assert found.names == {1: "dark", 2: "bright"}


# Bundles of MONAI ------------------------------------------------------------------------------


@needs("monai")
@pytest.mark.filterwarnings("ignore")
def test_a_bundle_finds_the_regions_of_both_images(pair, tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle", 350.0)
    regions = find_regions(f"monai:{bundle}", pair.fixed, pair.moving, "cpu")
    for labels, image in ((regions.fixed, pair.fixed), (regions.moving, pair.moving)):
        assert torch.equal(labels.data, (image.data[0] > 350).int())
        assert labels.grid.same_space(image.grid)
    assert regions.fixed.names == {1: "bright"}
    assert not (bundle / "eval").exists()


@needs("monai")
@pytest.mark.filterwarnings("ignore")
def test_channels_that_overlap_go_to_the_smallest(pair, tmp_path):
    model = MonaiBundle.load(tiny_bundle(tmp_path / "bundle", 350.0, with_background=False), "cpu")
    labels = model.segment(pair.moving)
    expected = (pair.moving.data[0] > 350).int() + (pair.moving.data[0] > 450).int()
    assert torch.equal(labels.data, expected)
    assert labels.names == {1: "bright", 2: "brighter"}


@needs("monai")
@pytest.mark.filterwarnings("ignore")
def test_a_bundle_that_is_wrong_is_told(pair, tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle", 1e9)
    with pytest.raises(SegmentationError, match="fixed: MONAI found only background"):
        MonaiBundle.load(bundle, "cpu").segment(pair.fixed)
    torch.save(torch.nn.Conv3d(1, 3, 1).state_dict(), bundle / "models" / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.pt: expected weights of the bundle's network"):
        MonaiBundle.load(bundle, "cpu")
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(WeightsError, match=r"model\.pt: expected the weights .* got no file"):
        MonaiBundle.load(bundle, "cpu")
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    del config["inferer"]
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="got no inferer"):
        MonaiBundle.load(bundle, "cpu")


def test_a_folder_that_is_no_bundle_is_told(tmp_path):
    with pytest.raises(ConfigError, match="expected a bundle of MONAI"):
        MonaiBundle.load(tmp_path, "cpu")
    (tmp_path / "metadata.json").write_text('{"network_data_format": {"outputs": {}}}')
    with pytest.raises(ConfigError, match="channel_def, which names"):
        channel_names(tmp_path / "metadata.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        channel_names(tmp_path / "none.json")


@pytest.mark.skipif(importlib.util.find_spec("monai") is not None, reason="it is installed")
def test_the_error_says_how_to_install_monai(pair, tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle", 350.0)
    with pytest.raises(MissingDependencyError, match=r"segmenter monai needs .*pip install monai"):
        find_regions(f"monai:{bundle}", pair.fixed, pair.moving, "cpu")


# TotalSegmentator ------------------------------------------------------------------------------


@needs("totalsegmentator")
@pytest.mark.filterwarnings("ignore")
def test_a_task_for_mr_runs_with_weights_of_its_own_kind(pair, tmp_path, monkeypatch):
    from totalsegmentator.map_tasks_config import TASK_ID_WEIGHTS_CONFIGS

    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path))
    own = {"totalseg_id": "test", "send_usage_stats": False, "prediction_counter": 0}
    (tmp_path / "config.json").write_text(json.dumps(own))
    trainer, number = "nnUNetTrainer_DASegOrd0", 597
    place = tmp_path / "nnunet" / "results" / TASK_ID_WEIGHTS_CONFIGS[number]["foldername"]
    labels = {"background": 0, "body_trunc": 1, "body_extremities": 2}
    tiny_nnunet(place / f"{trainer}__nnUNetPlans__3d_fullres", labels, trainer, (1.5, 1.5, 1.5))
    regions = find_regions("totalsegmentator:body_mr", pair.fixed, pair.moving, "cpu")
    assert regions.fixed.grid.same_space(pair.fixed.grid)
    assert regions.fixed.values and set(regions.fixed.names.values()) <= {
        "body_trunc",
        "body_extremities",
    }
    with pytest.raises(ConfigError, match=r"task best: expected one of .*total_mr"):
        find_regions("totalsegmentator:best", pair.fixed, pair.moving, "cpu")
    assert os.path.isdir(place)


def test_a_task_keeps_its_names_or_is_merged(monkeypatch, pair):
    """The package's part is played by a stand-in: it labels what is bright."""
    asked = []

    def run(ijk: Any, matrix: Any, device: str, task: str = "total") -> Any:
        asked.append(task)
        assert device == "cpu"
        table = iterreg.LabelTable("mr", {1: "lung_left", 2: "spleen"})
        return module.RawSegmentation((ijk > 350).astype(np.uint8) + 1, matrix, table)

    monkeypatch.setattr(module, "run_totalsegmentator", run)
    kept = find_regions("totalsegmentator:total_mr", pair.fixed, pair.moving, "cpu")
    assert kept.fixed.names == {1: "lung_left", 2: "spleen"}
    merged = find_regions("totalsegmentator:total_mr,thorax13", pair.fixed, pair.moving, "cpu")
    assert "lung" in "".join(merged.fixed.names.values()) and len(merged.fixed.values) == 1
    assert set(asked) == {"total_mr"} and isinstance(merged.fixed, LabelMap)
