"""Label tables: the shipped numbers, merging by name, readers of names, matching of two maps."""

from __future__ import annotations

import json

import pytest
import torch

from iterreg.errors import ConfigError, ExitCode, GeometryError, ImageContentError
from iterreg.geometry import Grid
from iterreg.image import LabelMap
from iterreg.regions.label_files import read_label_names
from iterreg.regions.label_tables import LabelTable, load_label_table, table_names
from iterreg.regions.match_labels import match_labels
from iterreg.regions.merge_labels import merge_labels

V1, V2, CHAMBERS = "totalsegmentator-v1", "totalsegmentator-v2", "heartchambers_highres"


def label_map(values, names=None, name="labels.nii.gz", origin=0.0):
    data = torch.tensor(values, dtype=torch.int32).reshape(1, 1, -1)
    identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid(tuple(data.shape), (1.0,) * 3, (origin, 0.0, 0.0), identity)
    return LabelMap(data, grid, names or {}, name)


def row(labels):
    return labels.data.flatten().tolist()


# The shipped tables


def test_sizes_and_numbers_of_the_shipped_tables():
    assert table_names() == [CHAMBERS, "thorax13", V1, V2]
    v1, v2 = load_label_table(V1), load_label_table(V2)
    assert sorted(v1.names) == list(range(1, 105))
    assert sorted(v2.names) == list(range(1, 118))
    assert (v1.names[7], v2.names[7]) == ("aorta", "pancreas")
    assert (v1.names[43], v2.names[43]) == ("trachea", "vertebrae_T1")
    assert load_label_table(CHAMBERS).names[7] == "pulmonary_artery"
    assert "117" in repr(v2)


def expected_classes(pairs):
    return {n: cls for numbers, cls in pairs for n in numbers}


@pytest.mark.parametrize(
    ("source", "pairs"),
    [
        (
            V1,
            [
                ((7,), 1),
                ((8,), 2),
                (range(13, 18), 3),
                (range(18, 42), 4),
                (range(58, 82), 4),
                ((42,), 5),
                ((43,), 6),
                ((49,), 7),
                ((84,), 8),
                ((85,), 9),
                ((86,), 10),
                ((87,), 11),
                (range(44, 49), 12),
            ],
        ),
        (
            V2,
            [
                ((52,), 1),
                ((63,), 2),
                (range(10, 15), 3),
                (range(26, 51), 4),
                (range(92, 116), 4),
                ((15,), 5),
                ((16,), 6),
                ((71,), 8),
                ((72,), 9),
                ((73,), 10),
                ((74,), 11),
                ((51, 61), 12),
            ],
        ),
    ],
)
def test_every_number_goes_to_its_class(source, pairs):
    numbers = list(range(0, 118))
    merged = merge_labels(label_map(numbers), source).labels
    classes = expected_classes(pairs)
    assert row(merged) == [classes.get(n, 0) for n in numbers]
    assert merged.names[4] == "vertebrae and ribs" and len(merged.names) == 12


def test_version_2_says_that_the_pulmonary_artery_is_missing():
    merged = merge_labels(label_map([0, 10, 53]), V2)
    assert row(merged.labels) == [0, 3, 0]
    assert merged.notes == (
        "pulmonary artery: not in totalsegmentator-v2; give heartchambers_highres to fill it",
    )
    assert merge_labels(label_map([49, 44]), V1).notes == ()


def test_an_extra_map_fills_what_is_missing_and_nothing_else():
    main, chambers = label_map([51, 51, 0, 10, 0]), label_map([7, 1, 7, 0, 6])
    merged = merge_labels(main, V2, extra=[(chambers, CHAMBERS)])
    assert row(merged.labels) == [7, 12, 7, 3, 0]
    assert merged.notes == ()
    with pytest.raises(GeometryError):
        merge_labels(main, V2, extra=[(label_map([7] * 5, origin=9.0), CHAMBERS)])


def test_numbers_without_a_name_are_noted():
    merged = merge_labels(label_map([10, 117, 7]), V1)
    assert "117 not in totalsegmentator-v1" in merged.notes[0]
    with pytest.raises(ImageContentError, match=r"structures of thorax13.*spleen"):
        merge_labels(label_map([1, 2]), V2)
    with pytest.raises(ImageContentError, match="every voxel is background"):
        merge_labels(label_map([0, 0]), V2)


def test_a_table_made_in_python_merges_too():
    table = LabelTable("mine", {300000000: "lung_upper_lobe_left", -5: "aorta", 7: "no such"})
    assert row(merge_labels(label_map([300000000, -5, 7, 0]), table).labels) == [3, 1, 0, 0]
    with pytest.raises(ConfigError, match="merges nothing"):
        merge_labels(label_map([1]), V2, target=V1)


# Table files


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("schema = 2\nname = 'x'\n[numbers]\na = 1", "schema: expected 1, got 2"),
        ("name = 'x'\n[numbers]\na = 1", "schema"),
        ("schema = 1\nname = 'x'\ncolour = 3\n[numbers]\na = 1", "unknown key 'colour'"),
        ("schema = 1\nname = 'x'\n[numbers]\na = 1\nb = 1", "1 is both a and b"),
        ("schema = 1\nname = 'x'\n[numbers]\na = 'one'", "whole number"),
        ("schema = 1\nname = 'x'\nnumbers = 3", "name = number"),
        ("schema = 1\nname = 'x'", "either"),
        ("schema = 1\n[numbers]\na = 1", "name: expected"),
        ("schema = 1\nname = 'x'\n[[class]]\nnumber = 1\nname = 'a'\nmembers = 'b'", "members"),
        ("schema = 1\nname = 'x'\n[[class]]\nname = 'a'\nmembers = ['b']", "whole number"),
        ("schema = 1\nname = 'x'\n[[class]]\nnumber = 1\nname = 'a'\nmember = []", "'member'"),
        ("schema = ", "not a TOML"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, text, what):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        load_label_table(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.CONFIG


def test_unknown_tables_name_the_known_ones():
    with pytest.raises(ConfigError, match="thorax13"):
        load_label_table("thorax14")


def test_a_users_merge_table(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(
        "schema = 1\nname = 'two'\n[[class]]\nnumber = 4\nname = 'bone'\n"
        "members = ['rib_*', 'scapula_*']\n"
    )
    assert row(merge_labels(label_map([71, 92, 10]), V2, target=path).labels) == [4, 4, 0]


FILES = {
    "a.toml": "schema = 1\nname = 'x'\n[numbers]\nbackground = 0\n'left lung' = 1\nheart = 12\n",
    "a.ctbl": "# Color table file\n# 3 values\n0 Background 0 0 0 0\n1 left lung 9 8 7 255\n"
    "2 (none) 0 0 0 0\n12 heart 128 174 128 255\n",
    "a.txt": "# ITK-SnAP Label Description File\n    0     0    0    0        0  0  0    "
    '"Clear Label"\n    1   255    0    0        1  1  1    "left lung"\n'
    '   12     0  255    0        1  1  1    "heart"\n',
    "a.json": json.dumps({"background": 0, "left lung": 1, "heart": 12}),
    "b.json": json.dumps({"name": "x", "labels": {"0": "bg", "1": "left lung", "12": "heart"}}),
}


@pytest.mark.parametrize("file", FILES)
def test_names_are_read_from_every_format(tmp_path, file):
    path = tmp_path / file
    path.write_text(FILES[file])
    if not file.endswith(".toml"):
        assert read_label_names(path) == {1: "left lung", 12: "heart"}
    assert load_label_table(path).names == {1: "left lung", 12: "heart"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.ctbl", "1 lung\n"),
        ("a.ctbl", "1 lung red 0 0 255\n"),
        ("a.txt", "1 lung\n"),
        ("a.txt", ""),
        ("a.json", "[1, 2]"),
        ("a.json", '{"lung": [1, 2]}'),
        ("a.json", "{"),
        ("a.csv", "1,lung"),
    ],
)
def test_files_that_name_nothing_are_refused(tmp_path, file, text):
    path = tmp_path / file
    path.write_text(text)
    with pytest.raises(ConfigError, match=file):
        read_label_names(path)
    with pytest.raises(ConfigError, match="nowhere"):
        read_label_names(tmp_path / "nowhere.json")


# Matching


def test_matching_by_name_renumbers_the_moving_map():
    fixed = label_map([0, 1, 2, 3], {1: "Left Lung", 2: "heart", 3: "aorta"}, "f.nii.gz")
    moving = label_map([5, 1, 9, 0, 5], {5: "left_lung", 1: "heart", 9: "liver"}, "m.nii.gz")
    matched = match_labels(fixed, moving)
    assert matched.values == [1, 2]
    assert row(matched.fixed) == [0, 1, 2, 0]
    assert row(matched.moving) == [1, 2, 0, 0, 1]
    assert matched.moving.names == matched.fixed.names == {1: "Left Lung", 2: "heart"}
    assert matched.notes == (
        "f.nii.gz: 3 (aorta) not in m.nii.gz: taken as background",
        "m.nii.gz: 9 (liver) not in f.nii.gz: taken as background",
    )


def test_matching_by_value_when_one_has_no_names():
    fixed, moving = label_map([1, 2, 7]), label_map([2, 1, 8], {1: "a", 2: "b"}, "m.nii.gz")
    matched = match_labels(fixed, moving)
    assert row(matched.fixed) == [1, 2, 0] and row(matched.moving) == [2, 1, 0]
    assert matched.fixed.names == {1: "a", 2: "b"}
    assert "matched by number" in matched.notes[0]
    assert match_labels(fixed, fixed).notes == ()
    assert match_labels(fixed, fixed).fixed.names == {}, "no name is made up"


def test_a_bare_number_never_matches_a_name():
    fixed = label_map([1, 7], {1: "heart"}, "f.nii.gz")
    moving = label_map([1, 7], {1: "heart", 7: "aorta"}, "m.nii.gz")
    matched = match_labels(fixed, moving)
    assert matched.values == [1] and len(matched.notes) == 2


def test_labels_that_share_a_name_become_one():
    fixed = label_map([1, 2, 0], {1: "lung", 2: "lung"}, "f.nii.gz")
    moving = label_map([0, 4, 4], {4: "lung"})
    matched = match_labels(fixed, moving)
    assert row(matched.fixed) == [1, 1, 0] and row(matched.moving) == [0, 1, 1]
    assert "share a name" in matched.notes[0]


def test_nothing_in_common_names_both_files():
    fixed = label_map([1], {1: "heart"}, "f.nii.gz")
    moving = label_map([1], {1: "liver"}, "m.nii.gz")
    with pytest.raises(ImageContentError, match="heart") as caught:
        match_labels(fixed, moving)
    message = str(caught.value)
    assert "f.nii.gz" in message and "m.nii.gz" in message and "liver" in message
    with pytest.raises(ImageContentError, match=r"m\.nii\.gz.*background"):
        match_labels(fixed, label_map([0, 0], name="m.nii.gz"))


def test_the_command_merges_by_name(tmp_path):
    from click.testing import CliRunner

    from iterreg.cli import iterreg
    from iterreg.io import read_label_map, write_label_map

    write_label_map(label_map([52, 10, 14, 51]), tmp_path / "total.nii.gz")
    write_label_map(label_map([0, 0, 0, 7]), tmp_path / "heart.nii.gz")
    arguments = [
        "merge-labels",
        "--labels",
        tmp_path / "total.nii.gz",
        "--label-table",
        "totalsegmentator-v2",
        "--extra",
        tmp_path / "heart.nii.gz",
        "heartchambers_highres",
        "--out",
        tmp_path / "merged.nii.gz",
    ]
    result = CliRunner().invoke(iterreg, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert row(read_label_map(tmp_path / "merged.nii.gz")) == [1, 3, 3, 7]
    again = CliRunner().invoke(iterreg, [str(a) for a in arguments])
    assert again.exit_code == 7 and "exists already" in again.stderr
