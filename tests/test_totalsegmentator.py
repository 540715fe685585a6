"""TotalSegmentator's wrapper, as far as it goes without its weights."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from iterreg.errors import ImageContentError, MissingDependencyError, SegmentationError
from iterreg.geometry import Grid
from iterreg.image import Image
from iterreg.regions import totalsegmentator as module
from iterreg.regions.label_tables import load_label_table
from iterreg.regions.totalsegmentator import (
    RawSegmentation,
    installed_table,
    segment_totalsegmentator,
)

OBLIQUE = ((0.0, -1.0, 0.0), (0.8, 0.0, -0.6), (0.6, 0.0, 0.8))


def ct(shape=(3, 4, 5)):
    """A CT whose voxels hold the number of a structure of version 2."""
    grid = Grid(shape, (1.0, 2.0, 3.0), (10.0, -20.0, 30.0), OBLIQUE)
    data = torch.zeros(1, *shape)
    data[0, 2, 3, 4], data[0, 0, 1, 2], data[0, 1, 0, 0] = 10, 52, 7
    return Image(data, grid, name="ct.nii.gz")


def echo(table="totalsegmentator-v2", shift=0.0, crop=None):
    def runner(image_ijk, matrix, device):
        moved = matrix.copy()
        moved[0, 3] += shift
        return RawSegmentation(image_ijk.astype(np.uint8)[:crop], moved, load_label_table(table))

    return runner


def test_labels_come_back_on_the_grid_of_the_image(caplog):
    image = ct()
    labels = segment_totalsegmentator(image, "cpu", echo())
    assert labels.data.shape == (3, 4, 5) and labels.grid is image.grid
    assert labels.data[2, 3, 4] == 3 and labels.data[0, 1, 2] == 1
    assert int((labels.data > 0).sum()) == 2  # 7 is the pancreas here
    assert "pulmonary artery" in caplog.text
    first = segment_totalsegmentator(image, "cpu", echo("totalsegmentator-v1"))
    assert first.data[1, 0, 0] == 1  # and the aorta there


def test_the_matrix_is_nibabels(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    nibabel = pytest.importorskip("nibabel")
    image = ct()
    saved = sitk.GetImageFromArray(image.data[0].numpy())
    saved.SetSpacing(image.grid.spacing_xyz_mm)
    saved.SetOrigin(image.grid.origin_lps_mm)
    saved.SetDirection([n for r in image.grid.direction_lps for n in r])
    sitk.WriteImage(saved, str(tmp_path / "ct.nii.gz"))
    read = nibabel.load(tmp_path / "ct.nii.gz")
    np.testing.assert_allclose(image.grid.ijk_to_ras, read.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(read.dataobj)[4, 3, 2], 10)


def test_what_it_refuses():
    with pytest.raises(SegmentationError, match="another grid"):
        segment_totalsegmentator(ct(), "cpu", echo(shift=1.0))
    with pytest.raises(SegmentationError, match="another grid"):
        segment_totalsegmentator(ct(), "cpu", echo(crop=3))
    empty = Image(torch.zeros(1, 3, 4, 5), ct().grid, name="ct.nii.gz")
    with pytest.raises(SegmentationError, match=r"ct\.nii\.gz: no anatomy of thorax13"):
        segment_totalsegmentator(empty, "cpu", echo())
    flat = Grid((4, 5), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    with pytest.raises(ImageContentError, match="volume"):
        segment_totalsegmentator(Image(torch.zeros(1, 4, 5), flat), "cpu", echo())


@pytest.mark.skipif(
    importlib.util.find_spec("totalsegmentator") is not None, reason="it is installed"
)
def test_the_error_says_what_to_install():
    with pytest.raises(MissingDependencyError) as caught:
        segment_totalsegmentator(ct(), "cpu")
    assert 'pip install "iterreg[totalsegmentator]"' in str(caught.value)


@pytest.mark.parametrize(("version", "device"), [("1.5.7", None), ("2.18.0", "gpu:1")])
def test_the_package_is_called_as_its_version_wants(version, device, monkeypatch):
    """A stand-in with the signatures of both versions: it copies the image into the labels."""
    nibabel = pytest.importorskip("nibabel")
    seen = {}

    def old(input, output, ml=False, task="total", quiet=False):
        seen.update(ml=ml, task=task)
        image = nibabel.load(input)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.uint8), image.affine), output)

    def new(input, output, ml=False, task="total", quiet=False, device="gpu"):
        old(input, output, ml, task)
        seen["device"] = device

    names = load_label_table(f"totalsegmentator-v{version[0]}").names
    package, api, maps = (types.ModuleType(f"totalsegmentator{m}") for m in ("", ".a", ".b"))
    api.totalsegmentator = old if version[0] == "1" else new
    maps.class_map = {"total": names}
    monkeypatch.setitem(sys.modules, "totalsegmentator", package)
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", api)
    monkeypatch.setitem(sys.modules, "totalsegmentator.map_to_binary", maps)
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: version)
    labels = segment_totalsegmentator(ct(), "cuda:1")
    assert seen == {"ml": True, "task": "total", **({"device": device} if device else {})}
    assert labels.data[1, 0, 0] == (1 if version[0] == "1" else 0)
    maps.class_map = {}
    assert installed_table(version).name == f"totalsegmentator-v{version[0]}"
