"""Presets and overrides: what is read is what was written, and nothing unknown gets in."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from iterreg.config import (
    SCHEMA,
    Config,
    Levels,
    Smoothness,
    config_to_dict,
    load_config,
    preset_names,
)
from iterreg.energy.overlap import OVERLAPS
from iterreg.energy.similarity import SIMILARITIES
from iterreg.errors import ConfigError
from iterreg.regions.segmenters import SEGMENTERS

ROOT = Path(__file__).parents[1]
SIMILARITY = ", ".join(SIMILARITIES)


def as_toml(tables: dict, prefix: str = "") -> str:
    """Plain tables as TOML; what is None is left out, as TOML has no word for it."""
    lines, below = [], []
    for key, value in tables.items():
        if isinstance(value, dict):
            below.append(f"[{key}]\n{as_toml(value)}")
        elif value is not None:
            lines.append(f"{key} = {as_value(value)}")
    return "\n".join([*lines, *below]) + "\n"


def as_value(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(as_value(v) for v in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def test_presets_are_listed():
    assert "thorax" in preset_names()
    assert preset_names() == sorted(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_loads(name):
    config = load_config(name)
    assert config.name == name
    assert list(config.levels.spacing_mm) == sorted(config.levels.spacing_mm, reverse=True)


@pytest.mark.parametrize("name", preset_names())
def test_round_trip_by_value_and_by_file(name, tmp_path):
    config = load_config(name)
    assert load_config(config) == config
    tables = config_to_dict(config)
    assert tables["schema"] == SCHEMA
    path = tmp_path / "mine.toml"
    path.write_text(as_toml(tables), "utf-8")
    assert load_config(path) == config
    assert load_config(str(path)) == config


def test_a_file_may_leave_out_what_it_does_not_change(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(f"schema = {SCHEMA}\n[smoothness]\nweight = 2\n", "utf-8")
    config = load_config(path)
    assert config == Config(name="short", smoothness=Smoothness(weight=2.0))
    assert isinstance(config.smoothness.weight, float)


def test_overrides():
    config = load_config(
        "thorax",
        {
            "smoothness.weight": 3,
            "levels.spacing_mm": [9, 3],
            "levels.steps": (4, 2),
            "fill": None,
            "segmenter": "none",
        },
    )
    assert config.smoothness.weight == 3.0
    assert config.levels == dataclasses.replace(
        load_config("thorax").levels, spacing_mm=(9.0, 3.0), steps=(4, 2)
    )
    assert config.fill is None and config.segmenter == "none"
    assert load_config(config, {"fill": -500}).fill == -500.0


def test_what_compares_images_that_have_no_regions():
    config = load_config("cardiac")
    assert config.unguided is not None and config.unguided.kind != config.similarity.kind
    alone = config.resolve(has_regions=False, labels_given=False)
    assert alone.similarity == config.unguided and alone.smoothness == config.smoothness
    thorax = load_config("thorax")
    assert thorax.resolve(has_regions=False, labels_given=False).similarity == thorax.similarity
    chosen = load_config("cardiac", {"similarity.kind": "ncc"})
    chosen = chosen.resolve(has_regions=False, labels_given=False)
    assert chosen.similarity.kind == "ncc", "what the user sets holds without regions too"
    chosen = load_config("cardiac", {"unguided.weight": 7})
    chosen = chosen.resolve(has_regions=False, labels_given=False)
    assert (chosen.similarity.kind, chosen.similarity.weight) == ("mse", 7)
    with pytest.raises(ConfigError, match=r"unguided.kind: expected one of"):
        load_config("cardiac", {"unguided.kind": "mi"})


def test_labels_that_are_given_are_met_even_where_nothing_is_seen():
    config = load_config("thorax")
    assert config.correction.where == "given" and config.overlap.where == "visible"
    for given, where in ((True, "everywhere"), (False, "visible")):
        resolved = config.resolve(has_regions=True, labels_given=given)
        assert resolved.correction.where == where
    cardiac = load_config("cardiac").resolve(has_regions=True, labels_given=False)
    assert cardiac.correction.where == "everywhere"


def test_overrides_leave_the_given_configuration_alone():
    config = Config()
    load_config(config, {"smoothness.weight": 5.0})
    assert config == Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.fill = 0.0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"smothness.weight": 1.0}, "preset thorax: smothness: unknown key; expected one of"),
        ({"smoothness.wait": 1.0}, "preset thorax: smoothness.wait: unknown key"),
        ({"smoothness": 1.0}, "smoothness: expected a table, got 1.0"),
        ({"smoothness.weight.deep": 1.0}, "weight is a value, not a table"),
        ({"smoothness.weight": "much"}, "smoothness.weight: expected float, got 'much'"),
        ({"smoothness.weight": True}, "smoothness.weight: expected float, got True"),
        ({"smoothness.weight": None}, "smoothness.weight: expected float, got None"),
        ({"smoothness.weight": -1.0}, "smoothness.weight: expected 0 to 1e+06, got -1.0"),
        ({"smoothness.weight": float("nan")}, "smoothness.weight: expected 0 to 1e+06, got nan"),
        ({"smoothness.sliding_weight": 2}, "sliding_weight: expected 0 to 1, got 2.0"),
        ({"smoothness.sliding": [["lung"]]}, "expected 2 values, got ['lung']"),
        ({"smoothness.sliding": "lung"}, "sliding: expected a list, got 'lung'"),
        ({"smoothness.sliding": [["lung", 3]]}, "expected str, got 3"),
        ({"similarity.kind": "mi"}, f"similarity.kind: expected one of {SIMILARITY}, got 'mi'"),
        (
            {"overlap.kind": "iou"},
            f"overlap.kind: expected one of {', '.join(OVERLAPS)}, got 'iou'",
        ),
        ({"segmenter": "best"}, f"segmenter: expected one of {', '.join(SEGMENTERS)}, got 'best'"),
        ({"overlap.where": "edges"}, "overlap.where: expected one of everywhere, visible, got"),
        ({"levels.steps": [1.5, 2, 3]}, "levels.steps: expected int, got 1.5"),
        ({"levels.steps": [1]}, "levels: expected as many steps as spacing_mm, got 1 and"),
        ({"levels.steps": [], "levels.spacing_mm": []}, "levels: expected as many steps"),
        ({"fill": "air"}, "fill: expected float, got 'air'"),
    ],
)
def test_overrides_that_are_refused(overrides, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config("thorax", overrides)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"levels.spacing_mm": [8.0, -4.0, 2.0]}, "spacing_mm"),
        ({"levels.spacing_mm": [8.0, float("nan"), 2.0]}, "spacing_mm"),
        ({"levels.steps": [5, -1, 5]}, "steps"),
        ({"similarity.intensity_range": [5.0]}, "intensity_range"),
        ({"similarity.intensity_range": [500.0, -1000.0]}, "intensity_range"),
        ({"fill": float("nan")}, "fill"),
        ({"hounsfield": ["air"]}, "hounsfield: expected some of fill, similarity.intensity_range"),
    ],
)
def test_values_that_cannot_work_are_refused(overrides, told):
    with pytest.raises(ConfigError, match=told):
        load_config("thorax", overrides)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schema = ", "not valid TOML"),
        ("name = 'x'", f"expected schema = {SCHEMA}, got None"),
        ("schema = 99", f"expected schema = {SCHEMA}, got 99"),
        (f"schema = {SCHEMA}\nsmoothness = 3", "smoothness: expected a table, got 3"),
        (f"schema = {SCHEMA}\n[oops]\nweight = 3", "oops: unknown key"),
    ],
)
def test_files_that_are_refused(tmp_path, text, told):
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=re.escape(told)) as refused:
        load_config(path)
    assert "mine" in str(refused.value), "the file is named"


def test_presets_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"preset torax: expected one of .*thorax"):
        load_config("torax")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(binary)


def test_steps_and_levels_go_together():
    with pytest.raises(ConfigError, match="as many steps"):
        Config(levels=Levels(spacing_mm=(8.0, 4.0), steps=(3,)))


@pytest.mark.parametrize(
    ("key", "table"),
    [("similarity.kind", SIMILARITIES), ("overlap.kind", OVERLAPS), ("segmenter", SEGMENTERS)],
)
def test_every_row_of_a_table_can_be_chosen_and_loaded(key, table):
    for name in table:
        chosen = config_to_dict(load_config("general", {key: name}))
        for part in key.split("."):
            chosen = chosen[part]
        assert chosen == name and callable(table[name])


def test_reading_a_configuration_loads_no_torch():
    code = (
        "import sys\nfrom iterreg.config import load_config\n"
        "load_config('thorax', {'similarity.kind': 'nmi'})\n"
        "sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "overrides",
    [
        {"levels.spacing_mm": [float("nan")], "levels.steps": [1]},
        {"levels.spacing_mm": [float("inf")], "levels.steps": [1]},
        {"levels.spacing_mm": [0.0], "levels.steps": [1]},
        {"levels.spacing_mm": [-2.0], "levels.steps": [1]},
        {"levels.spacing_mm": [8.0], "levels.steps": [-1]},
        {"levels.spacing_mm": [8.0], "levels.steps": [10**18]},
        {"similarity.intensity_range": [float("-inf"), 1.0]},
        {"similarity.radius_mm": [float("nan")]},
    ],
)
def test_levels_and_lists_hold_numbers_that_can_be_used(overrides: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(overrides)).split(".")[0]):
        load_config("general", overrides)


def test_the_start_without_regions_is_the_presets_unless_the_user_says_another():
    config = load_config("hippocampus")
    assert config.start.unguided == "rigid" and config.start.affine == "affine"
    alone = config.resolve(has_regions=False, labels_given=False)
    assert (alone.start.affine, alone.start.unguided) == ("rigid", "same")
    assert config.resolve(has_regions=True, labels_given=True).start.affine == "affine"
    chosen = load_config("hippocampus", {"start.affine": "similarity"})
    assert chosen.resolve(has_regions=False, labels_given=False).start.affine == "similarity"
