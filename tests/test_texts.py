"""Texts that are hostile or broken are refused in one short line, and nothing steers a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from iterreg.config import load_config
from iterreg.errors import ConfigError, ImageReadError, IterregError
from iterreg.learn2reg.records import finished_record
from iterreg.learn2reg.task import read_task
from iterreg.regions.label_files import read_label_names
from iterreg.regions.label_tables import load_label_table
from iterreg.report.source import read_folder
from iterreg.samreg.roi_files import read_roi_pairs
from iterreg.texts import (
    LONGEST_LINE,
    TextError,
    one_line,
    parse_json,
    parse_toml,
    printable,
    without_controls,
)

LONG_NUMBER = "9" * 5000
JSON = {
    "deep lists": "[" * 100_000,
    "deep tables": '{"a":' * 100_000,
    "deep but whole": "[" * 200 + "]" * 200,
    "5000 digits": f'{{"schema": {LONG_NUMBER}}}',
    "10^40": '{"fixed": {"shape_zyx": [' + "1" + "0" * 40 + "]}}",
    "infinity": '{"schema": Infinity}',
    "minus infinity": '{"schema": -Infinity}',
    "NaN": '{"schema": NaN}',
    "1e999": '{"schema": 1e999}',
    "100,000 letters": "x" * 100_000,
    "lone surrogate": '{"\\ud800": 1}',
    "empty": "",
    "a number": "3",
    "a list": "[]",
    "null": "null",
}
TOML = {
    "deep lists": "a = " + "[" * 100_000,
    "deep tables": "a = " + "{b = " * 10_000,
    "deep but whole": "a = " + "[" * 200 + "]" * 200,
    "5000 digits": f"schema = {LONG_NUMBER}",
    "10^40": "schema = 1" + "0" * 40,
    "100,000 letters": "x" * 100_000,
    "escape": "schema = \x1b[2J",
    "empty": "",
}


@pytest.mark.parametrize("name", [*list(JSON)[:9], "lone surrogate"])
def test_json_that_no_file_of_ours_needs_is_refused(name: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_json(JSON[name])
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("name", list(TOML)[:5])
def test_toml_that_no_file_of_ours_needs_is_refused(name: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_toml(TOML[name])
    assert len(str(caught.value)) < 120


def test_what_files_need_is_read_as_it_is() -> None:
    assert parse_json('{"a": [1, -2.5, true, null, "x"], "b": 9223372036854775807}') == {
        "a": [1, -2.5, True, None, "x"],
        "b": 9223372036854775807,
    }
    assert parse_json("[" * 60 + "]" * 60) != []
    assert str(parse_json('{"mb": NaN}', allow_nan=True)["mb"]) == "nan"
    assert parse_toml("a = [1, 2]\n[b]\nc = inf") == {"a": [1, 2], "b": {"c": float("inf")}}


READERS = {
    ".json": [read_roi_pairs, read_label_names, load_label_table, read_task, read_folder],
    ".toml": [load_label_table, load_config],
}


@pytest.mark.parametrize("suffix", READERS)
def test_every_reader_refuses_each_of_them(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name, text in (JSON if suffix == ".json" else TOML).items():
        path = folder / f"run{suffix}"
        path.write_text(text, "utf-8")
        for reader in READERS[suffix]:
            with pytest.raises(IterregError) as caught:
                reader(folder if reader is read_folder else path)
            assert str(folder) in str(caught.value), (name, reader)


@pytest.mark.parametrize("name", JSON)
def test_a_spoiled_record_is_as_good_as_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "disp_1.json").write_text(JSON[name], "utf-8")
    assert finished_record(tmp_path / "disp_1.npz", "digest") is None


GRID = (
    '{"shape_zyx": %s, "spacing_xyz_mm": [1, 1, 1], "origin_lps_mm": [0, 0, 0], '
    '"direction_lps": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}'
)
GOOD = GRID % "[2, 2, 2]"


@pytest.mark.parametrize(
    ("grid", "runs", "similarity"),
    [
        (GRID % "[2.0, 2, 2]", "[0, 8]", "0.5"),
        (GRID % "[1000000, 1000000, 1000000]", "[0, 1000000000000000000]", "0.5"),
        (GRID % '"222"', "[0, 8]", "0.5"),
        (GOOD, "[0, 8.0]", "0.5"),
        (GOOD, '["0", "8"]', "0.5"),
        (GOOD, "[-1, 9]", "0.5"),
        (GOOD, '"08"', "0.5"),
        (GOOD, "[0, 7]", "0.5"),
        (GOOD, "[0, 8]", '"0.5"'),
        (GOOD, "[0, 8]", "[0.5]"),
        (GOOD, "[0, 8]", "1.5"),
        (GOOD.replace("[1, 1, 1]", "[1, 1, true]"), "[0, 8]", "0.5"),
    ],
)
def test_roi_files_hold_numbers_of_the_right_kind(
    grid: str, runs: str, similarity: str, tmp_path: Path
) -> None:
    path = tmp_path / "roi.json"
    side = f'{{"runs": {runs}}}'
    pair = f'{{"similarity": {similarity}, "fixed": {side}, "moving": {side}}}'
    path.write_text(f'{{"schema": 1, "fixed": {grid}, "moving": {grid}, "pairs": [{pair}]}}')
    with pytest.raises(ImageReadError, match=r"roi\.json"):
        read_roi_pairs(path)


LABEL_FILES = {
    "a.ctbl": "1 \033[2J\033]0;owned\007x 1 1 1 1\n",
    "a.txt": '1 1 1 1 1 1 1 "\033[2J\033]0;owned\007x"\n',
    "a.json": '{"labels": {"\\u001b[2J\\u001b]0;owned\\u0007x": 1}}',
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_names_lose_letters_that_steer_a_terminal(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LABEL_FILES[name])
    assert read_label_names(tmp_path / name) == {1: "[2J]0;ownedx"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", '1 1 1 1 1 1 1 "' + "x" * 300_000 + '"\n'),
        ("a.ctbl", "1 " + "x" * 100_000 + " 1 1 1 1\n"),
        ("a.ctbl", LONG_NUMBER + " lung 1 1 1 1\n"),
        ("a.json", '{"lung": [1]}'),
        ("a.json", '{"lung": 4294967296}'),
        ("a.json", '{"' + LONG_NUMBER + '": "lung"}'),
        ("a.json", '{"1": "\\u001b"}'),
    ],
)
def test_label_names_of_a_wrong_kind_are_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=r"a\.") as caught:
        read_label_names(tmp_path / name)
    assert len(one_line(str(caught.value))) <= LONGEST_LINE


def test_printing_spells_out_control_letters() -> None:
    assert printable("a\x1b[2J\x07\u202eb\udc80\nc\td → é") == (
        "a\\x1b[2J\\x07\\u202eb\\udc80\nc\td → é"
    )
    assert without_controls(" left\x1b \n lung\u200b ") == "left lung"
    assert len(one_line("y" * 1_000_000)) == LONGEST_LINE
    assert one_line("a\r\nb") == "a b"
