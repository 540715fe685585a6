"""A small sample of ``benchmarks/bad_inputs.py``: each bad input is answered by one clear line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iterreg.errors import IterregError
from iterreg.texts import TextError, one_line, parse_json, parse_toml, printable

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The good files that are spoiled."""
    sys.path.insert(0, str(BENCHMARKS))
    from _bad_kinds import good_files
    from _bad_medical_files import more_good_files

    folder = tmp_path_factory.mktemp("good")
    good_files(folder)
    more_good_files(folder)
    yield folder
    sys.path.remove(str(BENCHMARKS))


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(number=st.integers(0, 100_000))
def test_a_bad_input_is_answered_by_one_clear_line(number: int, good: Path) -> None:
    from bad_inputs import run_case

    answer = run_case(2, number, good)
    assert answer.faults == [], answer


def test_the_same_number_is_the_same_case(good: Path, tmp_path: Path) -> None:
    from _bad_cases import draw

    for number in range(20):
        folders = [tmp_path / f"{number}-{k}" for k in range(2)]
        cases = []
        for folder in folders:
            folder.mkdir()
            cases.append(draw(5, number, good, folder))
        assert cases[0] == cases[1]
        files = [{f.name: f.read_bytes() for f in d.iterdir() if f.is_file()} for d in folders]
        assert files[0] == files[1]


def test_the_judge_sees_each_fault() -> None:
    sys.path.insert(0, str(BENCHMARKS))
    from _bad_kinds import Case
    from bad_inputs import FAULTS, judge

    case = Case("file: empty", [], must_fail=True)
    calm = (1.0, 100.0)
    line = b"iterreg: error: a.nii: empty\n"
    assert judge(case, 3, calm, (b"", line)) == []
    answers = {
        "bug": (1, calm, (b"", b"iterreg: error: this is a bug in iterreg: x\n")),
        "unclear": (3, calm, (b"", b"")),
        "accepted": (0, calm, (b"", b"")),
        "memory": (9, (1.0, 2600.0), (b"", line)),
        "killed": (-11, calm, (b"", line)),
        "escape": (3, calm, (b"\x1b[2J", line)),
        "slow": (3, (61.0, 100.0), (b"", line)),
        "foreign": (3, calm, (b"", b"HDF5-DIAG: Error detected\n" + line)),
    }
    assert list(answers) == list(FAULTS)
    for fault, answer in answers.items():
        assert judge(case, *answer) == [fault]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(value=VALUES | st.text(max_size=200))
def test_any_text_is_parsed_or_refused_in_one_line(value: object) -> None:
    import json

    texts = [value] if isinstance(value, str) else [json.dumps(value), str(value)]
    for text in texts:
        for parse in (parse_json, parse_toml):
            try:
                parse(text)
            except TextError as error:
                said = one_line(str(error))
                assert len(said) <= 600 and "\n" not in said
                said.encode()
        assert not set(printable(text)) & set("\x1b\x07\x9b\r")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(value=VALUES)
def test_any_json_is_no_roi_file(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    import json

    from iterreg.samreg.roi_files import read_roi_pairs

    path = tmp_path_factory.mktemp("rois") / "rois.json"
    path.write_text(json.dumps({"schema": 1, "fixed": value, "moving": value, "pairs": [value]}))
    with pytest.raises(IterregError):
        read_roi_pairs(path)
