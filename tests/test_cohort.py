"""Cohorts: tables checked before work, each case once, resumed after anything, one page."""

from __future__ import annotations

import csv
import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import cohort_work
import numpy as np
import pytest
import SimpleITK as sitk
from chromium import chromium, find_chromium
from click.testing import CliRunner, Result
from scipy.ndimage import gaussian_filter

from iterreg.cli import iterreg
from iterreg.cohort import run as run_module
from iterreg.cohort.cases import Case, Settings, State
from iterreg.cohort.engine import Lost, Place, do_each, in_turn
from iterreg.cohort.pairing import all_to, each_to_each
from iterreg.cohort.plan import Plan, Shard, open_folder, read_plan
from iterreg.cohort.records import made_from, read_record
from iterreg.cohort.summary import COLUMNS, FAILURE_COLUMNS, write_tables
from iterreg.cohort.table import Defaults, read_table
from iterreg.cohort.work import do_case
from iterreg.cohort.workers import queue_cluster, worker_options
from iterreg.errors import (
    ConfigError,
    CrashError,
    DeviceError,
    ExitCode,
    ImageReadError,
    MissingDependencyError,
)

ROOT = Path(__file__).parents[1]
FAST = ("--set", "levels.spacing_mm=[8.0, 4.0]", "--set", "levels.steps=[3, 2]")
SAME = ("displacement_mm.nii.gz", "transform.h5", "warped.nii.gz", "overlay.png", "thumbnail.jpg")
"""Files whose bytes no date is in."""


def save(path: Path, seed: int, shift: float = 0.0) -> None:
    """An oblique anisotropic volume of soft noise."""
    noise = np.random.default_rng(seed).normal(0, 1, (14, 24, 26))
    image = sitk.GetImageFromArray((100 * gaussian_filter(noise, 2)).astype(np.float32))
    image.SetSpacing((1.5, 1.5, 3.0))
    image.SetOrigin((shift, 0, 0))
    c, s = np.cos(0.2), np.sin(0.2)
    image.SetDirection((c, -s, 0, s, c, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of two pairs and one that is no image."""
    for number in (1, 2):
        save(tmp_path / f"f{number}.nii.gz", number)
        save(tmp_path / f"m{number}.nii.gz", number, 2.0)
    (tmp_path / "junk.nii.gz").write_text("junk")
    path = tmp_path / "pairs.csv"
    path.write_text(
        "id,fixed,moving,smoothness.weight\n"
        "one,f1.nii.gz,m1.nii.gz,\n"
        "two,f2.nii.gz,m2.nii.gz,0.5\n"
        "junk,junk.nii.gz,m1.nii.gz,\n"
    )
    return path


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the work of cohorts here, so that a test is quick."""
    monkeypatch.setattr(run_module, "do_each", lambda items, work, place: in_turn(items, work))


def cohort(*arguments: object) -> Result:
    """The command."""
    return CliRunner().invoke(iterreg, ["cohort", *(str(a) for a in arguments)])


def run_table(table: Path, out: Path, *more: object) -> Result:
    """``cohort run`` with few steps."""
    how = ("--preset", "general", "--threads", 1, "--no-report", *FAST)
    return cohort("run", table, "--out", out, *how, *more)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Tables ---------------------------------------------------------------------------------------


def test_every_problem_of_a_table_is_named_with_its_row(table: Path) -> None:
    table.write_text(
        "id,fixed,moving,fixed_labels,similarity.kind\n"
        "a,f1.nii.gz,gone.nii.gz,,\n"
        "A,f1.nii.gz,m1.nii.gz,,\n"
        "../b,f1.nii.gz,m1.nii.gz,,\n"
        "c,f1.nii.gz,m1.nii.gz,f1.nii.gz,\n"
        "d,f1.nii.gz,m1.nii.gz,,magic\n"
        "e,f1.nii.gz\n"
        ",f1.nii.gz,m1.nii.gz,,\n"
        "con,f1.nii.gz,m1.nii.gz,,\n"
    )
    with pytest.raises(ConfigError) as error:
        read_table(table, Defaults("general"))
    told = error.value.details
    assert len(told) == 8
    for words in (
        "row 2: moving: no such file",
        "row 3: the id A is that of row 2 too",
        "row 4: id: expected letters",
        "row 5: fixed_labels was given without",
        "row 6: preset general: similarity.kind: expected one of",
        "row 7: expected 5 cells, got 2",
        "row 8: id is empty",
        "row 9: id: expected letters",
    ):
        assert sum(line.startswith(words) for line in told) == 1, words


def test_columns_that_are_unknown_missing_or_twice_are_named(table: Path) -> None:
    table.write_text("id,fixed,fixed,fixd_mask\na,f1.nii.gz,f1.nii.gz,f1.nii.gz\n")
    with pytest.raises(ConfigError) as error:
        read_table(table, Defaults("general"))
    assert error.value.details == (
        "row 1: unknown column 'fixd_mask'; did you mean fixed_mask?",
        "row 1: the column 'fixed' is there twice",
        "row 1: the column 'moving' is missing",
    )
    out = table.parent / "out"
    result = cohort("run", table, "--out", out, "--preset", "general")
    assert result.exit_code == ExitCode.CONFIG and "did you mean" in result.stderr
    assert not out.exists(), "no work was begun"


def test_one_problem_is_one_line(table: Path) -> None:
    for content, told in (
        ("id,fixed,moving\na,f1.nii.gz\n", "1 problem; no work was begun: row 2: expected 3 cells"),
        ("id," * 9999, "row 1: expected at most 500 columns, got 10000"),
    ):
        table.write_text(content)
        result = cohort("run", table, "--out", table.parent / "out", "--preset", "general")
        assert result.exit_code == ExitCode.CONFIG
        (line,) = result.stderr.splitlines()
        assert str(table) in line and told in line


def test_a_cell_is_a_value_and_overrides_the_command_line(table: Path) -> None:
    cases = read_table(table, Defaults("general", {"smoothness.weight": 0.1}))
    assert [case.overrides["smoothness.weight"] for case in cases] == [0.1, 0.5, 0.1]
    assert cases[0].files["moving"] == str(table.parent / "m1.nii.gz")
    assert [case.row for case in cases] == [2, 3, 4]
    with pytest.raises(ConfigError) as error:
        read_table(table, Defaults())
    assert error.value.details[0] == (
        "row 2: preset: expected a name here or --preset, got neither"
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("head", ["", "\ufeff", "sep={}\n", "\ufeffsep={}\n"])
def test_a_table_is_read_as_a_spreadsheet_writes_it(table: Path, separator: str, head: str) -> None:
    (table.parent / "f1.nii.gz").rename(table.parent / "Größe; 1.nii.gz")
    lines = table.read_text().replace("f1.nii.gz", '"Größe; 1.nii.gz"').replace(",", separator)
    table.write_text(head.format(separator) + lines, encoding="utf-8", newline="\r\n")
    cases = read_table(table, Defaults("general"))
    assert [case.id for case in cases] == ["one", "two", "junk"]
    assert cases[0].files["fixed"] == str(table.parent / "Größe; 1.nii.gz")
    assert cases[1].overrides == {"smoothness.weight": 0.5}
    assert [case.row for case in cases] == [k + bool("sep" in head) for k in (2, 3, 4)]


def test_a_table_that_is_no_text_says_what_to_do(table: Path) -> None:
    table.write_bytes("id,fixed,moving\na,größe.nii,b.nii\n".encode("latin-1"))
    with pytest.raises(ImageReadError, match=r"got another encoding; save it as 'CSV UTF-8'"):
        read_table(table, Defaults("general"))
    table.write_text('id,fixed,moving\na,f1.nii.gz,m1.nii.gz\nb,"f1.nii.gz,m1.nii.gz\n')
    with pytest.raises(ImageReadError, match="row 3: expected cells of a CSV file"):
        read_table(table, Defaults("general"))


def test_lists_of_files_become_cases(table: Path) -> None:
    folder = table.parent
    files = [folder / f"f{n}.nii.gz" for n in (1, 2)]
    defaults = Defaults("general")
    assert [c.id for c in each_to_each(files, defaults)] == ["f1__f2", "f2__f1"]
    (case,) = all_to(files[0], files, defaults)
    assert case.id == "f2" and case.files["fixed"] == str(files[0])
    for name in ("p1", "p2"):
        (folder / name).mkdir()
        save(folder / name / "scan.nii.gz", 1)
    alike = [folder / name / "scan.nii.gz" for name in ("p1", "p2")]
    assert [c.id for c in all_to(files[0], alike, defaults)] == ["p1_scan", "p2_scan"]
    with pytest.raises(ConfigError, match="at least 2 files"):
        each_to_each(files[:1], defaults)


def test_a_bids_data_set_is_paired_by_what_no_query_names(table: Path) -> None:
    pytest.importorskip("bids")
    folder = table.parent / "bids"
    for subject in ("01", "02", "03"):
        for session in ("a", "b"):
            place = folder / f"sub-{subject}" / f"ses-{session}" / "anat"
            if subject != "03" or session == "a":
                place.mkdir(parents=True)
                save(place / f"sub-{subject}_ses-{session}_T1w.nii.gz", 1)
    about = {"Name": "x", "BIDSVersion": "1.8.0"}
    (folder / "dataset_description.json").write_text(json.dumps(about))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from iterreg.cohort.bids import bids_cases, parse_query\n"
        "from iterreg.cohort.table import Defaults\n"
        "queries = map(parse_query, ('ses=a,suffix=T1w', 'ses=b,suffix=T1w'))\n"
        "for case in bids_cases(Path(sys.argv[1]), *queries, Defaults('general')):\n"
        "    print(case.id)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.split() == [
        f"sub-{s}_ses-a_T1w__sub-{s}_ses-b_T1w" for s in ("01", "02")
    ], found.stderr


# The engine -----------------------------------------------------------------------------------


@pytest.fixture
def worker_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers find the functions of the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_worker_that_dies_gives_its_item_back_twice(
    jobs: int, tmp_path: Path, worker_path: None
) -> None:
    if jobs > 1:
        pytest.importorskip("distributed")
    place, items = Place(jobs=jobs), ["a", "bad", "b"]
    work = partial(cohort_work.die_first, 2, tmp_path)
    assert dict(do_each(items, work, place)) == {"a": "A", "bad": "BAD", "b": "B"}
    assert (tmp_path / "bad.tries").read_text() == "xxx"


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_item_that_kills_every_worker_is_lost_and_no_other(
    jobs: int, tmp_path: Path, worker_path: None
) -> None:
    if jobs > 1:
        pytest.importorskip("distributed")
    items = [f"n{k}" for k in range(8)]
    items.insert(3, "bad")
    work = partial(cohort_work.die_first, 99, tmp_path)
    answers = dict(do_each(items, work, Place(jobs=jobs)))
    gone = answers.pop("bad")
    assert isinstance(gone, Lost) and gone.exit_code == ExitCode.CRASHED
    assert "ended 3 times" in gone.reason and "\n" not in gone.reason
    assert answers == {f"n{k}": f"N{k}" for k in range(8)}


@pytest.mark.parametrize("deaths", [2, 99])
def test_workers_that_die_while_they_start_are_started_again(
    deaths: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        f"tries = {str(tmp_path / 'tries')!r}\n"
        "if any('spawn_main' in word for word in sys.orig_argv):\n"
        "    with open(tries, 'a') as file:\n"
        "        file.write('x')\n"
        f"    if os.path.getsize(tries) <= {deaths}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    answers = do_each("ab", str.upper, Place(jobs=2))
    if deaths == 2:
        assert dict(answers) == {"a": "A", "b": "B"}
        return
    with pytest.raises(CrashError, match="2 workers did not start, 3 times") as error:
        dict(answers)
    assert "\n" not in str(error.value)


def test_a_port_that_is_in_use_costs_nothing(worker_path: None) -> None:
    pytest.importorskip("distributed")
    with socket.socket() as taken:
        with suppress(OSError):  # another program has it
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        assert dict(do_each("ab", str.upper, Place(jobs=2))) == {"a": "A", "b": "B"}


def test_a_running_scheduler_is_used_and_its_end_is_told(tmp_path: Path, worker_path: None) -> None:
    pytest.importorskip("distributed")
    code = (
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    options = dict(dashboard_address=':0', host='127.0.0.1', memory_limit=0)\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, **options)\n"
        "    print(cluster.scheduler_address, flush=True)\n"
        "    input()\n"
    )
    script = tmp_path / "scheduler.py"
    script.write_text(code)
    command = [sys.executable, "-W", "ignore", str(script)]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-3, text=True)
    try:
        assert process.stdout is not None
        place = Place(scheduler=process.stdout.readline().strip())
        work = partial(cohort_work.die_first, 0, tmp_path)
        answers = do_each((f"n{k}" for k in range(10_000)), work, place)
        assert next(answers)[1] == "N0"
        process.kill()
        with pytest.raises(CrashError, match="scheduler is gone; run the same command"):
            list(answers)
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(ConfigError, match="expected one of both"):
        Place(scheduler="tcp://127.0.0.1:1", cluster="slurm")


def test_each_gpu_gets_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [w["env"].get("CUDA_VISIBLE_DEVICES") for w in worker_options(Place(jobs=3), 3)]
    assert seen == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    seen = [w["env"].get("CUDA_VISIBLE_DEVICES") for w in worker_options(Place(jobs=2), 2)]
    assert seen == ["4", "7"]


@pytest.mark.parametrize(
    ("cluster", "lines"),
    [
        ("slurm", ["#SBATCH -p long", "#SBATCH -A lab", "#SBATCH --cpus-per-task=4"]),
        ("pbs", ["#PBS -q long", "#PBS -A lab", "ncpus=4"]),
        ("lsf", ["#BSUB -q long", '#BSUB -P "lab"', "#BSUB -n 4"]),
        ("sge", ["#$ -q long", "#$ -P lab", "#$ -l h_rt=02:00:00"]),
    ],
)
def test_the_job_of_a_queue_says_what_was_asked(cluster: str, lines: list[str]) -> None:
    pytest.importorskip("dask_jobqueue")
    place = Place(
        3, None, cluster, "long", "lab", "02:00:00", 6.0, 4, ("--gres=gpu:1",), ("module load x",)
    )
    made = queue_cluster(place)
    try:
        script = made.job_script()
    finally:
        made.close()
    for line in (*lines, "--gres=gpu:1", "module load x", "distributed.cli.dask_worker"):
        assert line in script, script
    assert "6" in script and "--nworkers" not in script


def queue_of_a_shell(folder: Path, monkeypatch: pytest.MonkeyPatch, submit: str) -> None:
    """Commands of Slurm that run jobs as processes of this machine."""
    commands = {"sbatch": submit, "scancel": 'kill -- -"$1"'}
    (folder / "bin").mkdir()
    for name, line in commands.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]))


def test_the_jobs_of_a_queue_do_the_work(
    tmp_path: Path, worker_path: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue")
    run_it = (
        'cp "$1" "$1.job"\nsetsid sh "$1.job" > /dev/null 2>&1 &\necho "Submitted batch job $!"'
    )
    queue_of_a_shell(tmp_path, monkeypatch, run_it)
    place = Place(2, cluster="slurm", prologue=(f"cd {tmp_path}", "touch begun.$$"))
    work = partial(cohort_work.die_first, 1, tmp_path)
    answers = dict(do_each(["a", "bad", "b"], work, place))
    assert answers == {"a": "A", "bad": "BAD", "b": "B"}, "a job that died was replaced"
    assert len(list(tmp_path.glob("begun.*"))) >= 2


def test_jobs_that_do_not_begin_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue")
    queue_of_a_shell(tmp_path, monkeypatch, "echo 'Submitted batch job 999999999'")
    monkeypatch.setattr("iterreg.cohort.cluster.PATIENCE_S", 2.0)
    # Warnings are errors here, which ends the wait.
    with pytest.raises(UserWarning, match="no worker has been there for 2 s; still waiting"):
        list(do_each("ab", str.upper, Place(2, cluster="slurm")))


def test_a_queue_that_takes_no_job_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(DeviceError, match=r"no job could be submitted: .*'sbatch'"):
        list(do_each("ab", str.upper, Place(2, cluster="slurm")))
    queue_of_a_shell(tmp_path, monkeypatch, "echo 'invalid partition: nix' >&2; exit 1")
    with pytest.raises(DeviceError, match=r"cluster slurm: .*invalid partition: nix") as error:
        list(do_each("ab", str.upper, Place(2, cluster="slurm")))
    assert "\n" not in str(error.value)


def test_without_dask_one_line_says_how_and_one_job_works(
    table: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: None
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    many = run_table(table, table.parent / "out", "--jobs", 2)
    assert many.exit_code == ExitCode.MISSING_DEPENDENCY
    assert "pip install 'iterreg[cluster]'; --jobs 1 and --shard do without" in many.stderr
    with pytest.raises(MissingDependencyError):
        do_each([1], str, Place(scheduler="tcp://127.0.0.1:1"))
    one = run_table(table, table.parent / "out", "--jobs", 1, "--shard", "1/3")
    assert one.exit_code == 0, one.stderr


# Runs -----------------------------------------------------------------------------------------


def test_each_case_once_failures_logged_and_tried_again(table: Path, in_this_process: None) -> None:
    out = table.parent / "out"
    first = run_table(table, out)
    assert first.exit_code == ExitCode.ERROR
    assert "1 of 3 pairs failed (junk)" in first.stderr and "retry" in first.stderr
    found = rows(out / "cohort.csv")
    assert list(found[0]) == list(COLUMNS)
    assert [r["state"] for r in found] == ["done", "done", "failed"]
    assert float(found[0]["ncc_after"]) > 0.9 > float(found[0]["worst_ratio"])
    (failure,) = rows(out / "failures.csv")
    assert list(failure) == list(FAILURE_COLUMNS)
    assert failure["id"] == "junk" and failure["row"] == "4" and failure["exit_code"] == "3"
    assert "junk.nii.gz: expected a NIfTI image" in failure["reason"]
    page = (out / "cohort.html").read_text()
    assert page.index("junk") < page.index(">one<") and "data:image/jpeg" in page

    stamps = {f: f.stat().st_mtime_ns for f in (out / "cases").rglob("*")}
    second = run_table(table, out)
    assert second.exit_code == ExitCode.ERROR and "2 had one" in second.stdout
    assert stamps == {f: f.stat().st_mtime_ns for f in (out / "cases").rglob("*")}
    assert read_plan(out).cases[1].overrides["smoothness.weight"] == 0.5

    save(table.parent / "junk.nii.gz", 1)
    assert cohort("retry", out, "--case", "one", "--failed").exit_code == 2
    again = cohort("retry", out, "--failed")
    assert again.exit_code == 0, again.stderr
    assert rows(out / "failures.csv") == []
    status = cohort("status", out, "--verify", "--json", out.parent / "s.json")
    assert "3 pairs: 3 done, 0 failed, 0 busy, 0 waiting" in status.stdout
    assert json.loads((out.parent / "s.json").read_text())["done"] == 3
    (out / "cases" / "one" / "warped.nii.gz").write_bytes(b"x")
    assert cohort("status", out).stdout.startswith("3 pairs: 2 done")
    spoiled = cohort("status", out, "--verify")
    assert spoiled.exit_code == ExitCode.ERROR and "one: warped.nii.gz" in spoiled.stderr


def test_changed_settings_or_images_make_a_case_anew(table: Path, in_this_process: None) -> None:
    out = table.parent / "out"
    run_table(table, out, "--save-jacobian")
    assert (out / "cases" / "one" / "jacobian.nii.gz").exists()
    before = read_record(out, "one")
    run_table(table, out)
    assert not (out / "cases" / "one" / "jacobian.nii.gz").exists(), "of the earlier run"
    assert read_record(out, "one") != before
    kept = read_record(out, "one")
    os.utime(table.parent / "m2.nii.gz", (0, 0))
    run_table(table, out)
    assert read_record(out, "one") == kept and read_record(out, "two") != kept


def test_a_case_that_another_run_has_is_left_alone(table: Path) -> None:
    out = table.parent / "out"
    cases = read_table(table, Defaults("general"))
    settings = Settings(str(out))
    open_folder(Plan(cases, settings))
    place = out / "cases" / "one"
    place.mkdir()
    lock = os.open(place, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        outcome = do_case(settings, cases[0])
        assert outcome.state is State.BUSY and not list(place.iterdir())
        assert run_module.state_of(Plan(cases, settings), cases[0]) is State.BUSY
    finally:
        os.close(lock)
    assert run_module.state_of(Plan(cases, settings), cases[0]) is State.WAITING


def test_a_run_that_was_killed_continues_with_the_same_bytes(table: Path) -> None:
    quiet, killed = table.parent / "quiet", table.parent / "killed"
    command = [sys.executable, "-m", "iterreg", "cohort", "run", str(table), "--out", str(killed)]
    command += ["--preset", "general", "--threads", "1", "--no-report", *FAST]
    process = subprocess.Popen(command, cwd=ROOT, stdout=-3, stderr=-3, start_new_session=True)
    begun = time.monotonic()
    while not list(killed.glob("cases/*/.iterreg-*")) and process.poll() is None:
        assert time.monotonic() - begun < 120
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "cohort.csv").exists(), "it was killed in the middle"
    for out in (killed, quiet):
        run_table(table, out)
    for name in SAME:
        files = [out / "cases" / case / name for out in (killed, quiet) for case in ("one", "two")]
        assert files[0].read_bytes() == files[2].read_bytes(), name
        assert files[1].read_bytes() == files[3].read_bytes(), name
    assert not list(killed.rglob(".iterreg-*"))


def test_ctrl_c_leaves_finished_pairs_and_nothing_else(table: Path) -> None:
    pytest.importorskip("distributed")
    out = table.parent / "out"
    lines = [f"{k},f1.nii.gz,m1.nii.gz,0.{k}" for k in range(1, 9)]
    table.write_text("\n".join(["id,fixed,moving,smoothness.weight", *lines]))
    command = [sys.executable, "-m", "iterreg", "cohort", "run", str(table), "--out", str(out)]
    command += ["--preset", "general", "--threads", "1", "--no-report", "--jobs", "2", *FAST]
    code = (  # a child of this shell could have been told to ignore Ctrl-C
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        stdout=-3,
        stderr=-1,
        text=True,
        start_new_session=True,
    )
    begun = time.monotonic()
    while not list(out.glob("cases/*/case.json")) and process.poll() is None:
        assert time.monotonic() - begun < 120
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    told = process.communicate()[1]
    assert process.returncode == ExitCode.INTERRUPTED, told
    assert "interrupted; finished pairs are kept" in told and "Traceback" not in told
    assert not list(out.rglob(".iterreg-*"))
    states = [row["state"] for row in rows(out / "cohort.csv")]
    assert states.count("done") == len(list(out.glob("cases/*/case.json"))) > 0
    assert set(states) <= {"done", "waiting"}, "no pair failed because it was interrupted"


def test_shards_are_all_cases_once(table: Path) -> None:
    parts = [Shard.parse(f"{k}/3").of(range(10)) for k in (1, 2, 3)]
    assert sorted(n for part in parts for n in part) == list(range(10))
    for text in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(ConfigError, match="shard"):
            Shard.parse(text)


def test_the_rule_of_snakemake_in_the_docs_does_all_cases(table: Path) -> None:
    program = shutil.which("snakemake")
    if program is None:
        pytest.skip("snakemake is not installed")
    table.write_text("\n".join(table.read_text().splitlines()[:3]) + "\n")
    _, _, after = (ROOT / "docs" / "cohort.rst").read_text().partition("rule of Snakemake")
    lines = itertools.takewhile(
        lambda line: not line or line.startswith(" "), after.partition("::\n")[2].splitlines()
    )
    rules = textwrap.dedent("\n".join(lines))
    few = "general --threads 1 --no-report " + " ".join(f"'{word}'" for word in FAST)
    for old, new in (("range(1, 9)", "range(1, 3)"), ("}/8", "}/2"), ("brain", few)):
        assert rules.count(old) == 1, rules
        rules = rules.replace(old, new)
    (table.parent / "Snakefile").write_text(rules)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "XDG_CACHE_HOME": str(table.parent)}
    command = [program, "--cores", "1", "--quiet", "all"]
    made = subprocess.run(command, cwd=table.parent, env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert [r["state"] for r in rows(table.parent / "study" / "cohort.csv")] == ["done", "done"]


def test_a_folder_with_something_else_is_refused(table: Path) -> None:
    out = table.parent / "full"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    result = run_table(table, out)
    assert result.exit_code == ExitCode.OUTPUT and "thesis.txt" in result.stderr


def test_the_folder_of_another_cohort_is_refused(table: Path, in_this_process: None) -> None:
    out = table.parent / "out"
    table.write_text("id,fixed,moving\n1,f1.nii.gz,m1.nii.gz\n2,f2.nii.gz,m2.nii.gz\n")
    assert run_table(table, out).exit_code == 0
    kept = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    other = table.parent / "other.csv"
    for text in ("1,f2.nii.gz,m2.nii.gz", "3,f1.nii.gz,m1.nii.gz"):
        other.write_text(f"id,fixed,moving\n{text}\n")
        refused = run_table(other, out)
        assert refused.exit_code == ExitCode.OUTPUT, refused.output
        assert "holds another cohort of 2 pairs" in refused.stderr
        assert "first: 1, f1.nii.gz and m1.nii.gz" in refused.stderr
        assert kept == {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    other.write_text(table.read_text() + "3,f1.nii.gz,m2.nii.gz\n")
    assert run_table(other, out).exit_code == 0, "it may grow"
    assert [r["id"] for r in rows(out / "cohort.csv")] == ["1", "2", "3"]


# The page -------------------------------------------------------------------------------------


def test_the_page_sorts_and_filters_in_a_browser(tmp_path: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here")
    from page_cases import make_cohort

    plan = make_cohort(tmp_path / "c", 12)
    write_tables(plan)
    (tmp_path / "profile").mkdir()
    with chromium(program, tmp_path / "profile") as page:
        page.open((tmp_path / "c" / "cohort.html").as_uri())
        shown = "[...document.querySelectorAll('#cases tbody tr:not([hidden])')]"
        ids = f"{shown}.map(r => r.cells[1].textContent)"
        groups = f"{shown}.map(r => r.dataset.group)"
        order = page.evaluate(groups)
        assert order == sorted(order, key=["no result", "failed", "doubtful", "ok"].index)
        page.evaluate("document.querySelector('input[value=ok]').click()")
        assert "ok" not in page.evaluate(groups)
        page.evaluate("document.querySelector('input[value=ok]').click()")
        page.evaluate("document.querySelectorAll('#cases thead button')[0].click()")
        assert page.evaluate(ids) == [f"case{k:04d}" for k in range(12)]
        find = "document.getElementById('find')"
        page.evaluate(f"{find}.value = 'case0003'; {find}.dispatchEvent(new Event('input'))")
        assert page.evaluate(ids) == ["case0003"]
        assert page.complaints == []
        assert [u for u in page.requests if not u.startswith(("file:", "data:"))] == []


def test_ids_and_reasons_cannot_become_code(tmp_path: Path) -> None:
    from page_cases import make_cohort

    plan = make_cohort(tmp_path / "c", 2, reason="<script>alert(1)</script>=1+1")
    write_tables(plan)
    assert "<script>alert" not in (tmp_path / "c" / "cohort.html").read_text()


def test_made_from_tells_what_a_case_depends_on(table: Path) -> None:
    case, other, _ = read_table(table, Defaults("general"))
    one, two = Settings("/x"), Settings("/x", seed=1)
    assert made_from(case, one) == made_from(case, Settings("/y", threads=3))
    assert len({made_from(case, one), made_from(case, two), made_from(other, one)}) == 3
    assert isinstance(case, Case)
