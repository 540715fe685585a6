"""The table of segmenters: every place that names one reads it, and each name runs its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from iterreg.cli.options import pair_options
from iterreg.config import load_config
from iterreg.errors import ConfigError
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.io import read_image
from iterreg.regions import segmenters, totalsegmentator
from iterreg.regions.segmenters import SEGMENTERS

EYE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def image(name):
    grid = Grid((2, 3, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), EYE)
    return Image(torch.zeros(1, 2, 3, 4), grid, name=name)


def test_the_table_can_be_read_without_torch():
    code = (
        "import sys; from iterreg.regions.segmenters import SEGMENTERS; list(SEGMENTERS); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_row_is_a_function_of_the_common_signature():
    for name in SEGMENTERS:
        code = SEGMENTERS[name].__code__
        assert code.co_varnames[: code.co_argcount] == ("fixed", "moving", "device"), name


def test_the_configuration_and_the_command_line_read_the_table(monkeypatch):
    monkeypatch.setitem(SEGMENTERS._rows, "mine", "iterreg.regions.segmenters:no_regions")
    assert load_config("general", {"segmenter": "mine"}).segmenter == "mine"
    with pytest.raises(ConfigError, match=r"none, thorax-ct, .*, monai, mine, got 'best'"):
        load_config("general", {"segmenter": "best"})
    with pytest.raises(ConfigError, match="segmenter: expected one of none"):
        SEGMENTERS["best"]

    @pair_options()
    def command(**options):
        """Hold the options."""

    option = next(p for p in command.__click_params__ if p.name == "segmenter")
    assert list(option.type.choices) == list(SEGMENTERS)


def test_none_finds_no_regions():
    regions = SEGMENTERS["none"](image("f"), image("m"), "cpu")
    assert regions.values == [] and not regions.empty_background
    assert regions.moving.name == "regions of m"


def test_thorax_ct_knows_that_the_background_is_air(pair_folder):
    scans = [read_image(pair_folder / f"{side}.nii.gz") for side in ("fixed", "moving")]
    regions = SEGMENTERS["thorax-ct"](*scans, "cpu")
    assert regions.values == [1, 2, 3, 4, 5] and regions.empty_background
    assert regions.fixed.names[3] == regions.moving.names[3] == "right lung"


def test_totalsegmentator_runs_on_the_device_and_is_matched_by_name(monkeypatch):
    asked = []

    def stand_in(scan, device, target, task):
        assert (target, task) == ("thorax13", "total")
        asked.append((scan.name, device))
        data = torch.full((2, 3, 4), 1 + len(asked), dtype=torch.int32)
        return LabelMap(data, scan.grid, {1 + len(asked): "aorta"})

    monkeypatch.setattr(totalsegmentator, "segment_totalsegmentator", stand_in)
    regions = segmenters.totalsegmentator(image("f"), image("m"), "cuda:1")
    assert asked == [("f", "cuda:1"), ("m", "cuda:1")]
    assert regions.values == [2] and int(regions.moving.data.max()) == 2
    assert not regions.empty_background
