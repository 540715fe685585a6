"""Tables of pairs from the data at hand, and the command that registers them."""

from __future__ import annotations

import csv
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("ITERREG_DATA", ROOT.parent / "shared" / "data"))
COLUMNS = ("id", "fixed", "moving", "fixed_labels", "moving_labels", "preset")

Row = dict[str, str]


def rows(count: int, folder: Path) -> list[Row]:
    """So many pairs from the data at hand; altered copies are written to a folder."""
    found = [*hearts(), *chest()]
    people = hippocampi()
    found += itertools.islice(people, max(0, (count - len(found)) * 2 // 3))
    found += itertools.islice(altered(folder), max(0, count - len(found)))
    return found[:count]


def hippocampi() -> Iterator[Row]:
    """Every ordered pair of people, with label maps."""
    images = sorted((DATA / "hippocampus_msd").glob("*_img.nii.gz"))
    for fixed, moving in itertools.permutations(images, 2):
        yield hippocampus_row(fixed, moving, "people")


def hippocampus_row(fixed: Path, moving: Path, group: str) -> Row:
    """A pair of hippocampi; the labels lie beside the images."""
    names = [path.name.split("_")[-2] for path in (fixed, moving)]
    labels = [str(path).replace("_img", "_seg") for path in (fixed, moving)]
    paths = str(fixed), str(moving), *labels
    return dict(zip(COLUMNS, (f"{group}-{'-'.join(names)}", *paths, "hippocampus"), strict=True))


def hearts() -> Iterator[Row]:
    """End diastole and end systole, both ways."""
    for patient, frame in (("067", "10"), ("068", "12")):
        stems = [DATA / "acdc" / f"patient{patient}_frame{f}" for f in ("01", frame)]
        for way, (a, b) in (("ed", stems), ("es", stems[::-1])):
            files = f"{a}.nii.gz", f"{b}.nii.gz", f"{a}_gt.nii.gz", f"{b}_gt.nii.gz"
            yield dict(zip(COLUMNS, (f"heart-{patient}-{way}", *files, "cardiac"), strict=True))


def chest() -> Iterator[Row]:
    """The pair that comes with iterreg, from images alone."""
    folder = ROOT / "iterreg" / "data" / "thorax4dct_mini"
    files = str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz"), "", ""
    yield dict(zip(COLUMNS, ("chest", *files, "thorax"), strict=True))


def altered(folder: Path) -> Iterator[Row]:
    """A person and a copy with another contrast, noise and a shift, with seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    images = sorted((DATA / "hippocampus_msd").glob("*_img.nii.gz"))
    for seed in itertools.count():
        fixed = images[seed % len(images)]
        moving = folder / f"copy_{seed:03d}_img.nii.gz"
        if not moving.exists():
            random_numbers = np.random.default_rng(seed)
            for name in ("img", "seg"):
                image = sitk.ReadImage(str(fixed).replace("_img", f"_{name}"))
                if name == "img":
                    values = sitk.GetArrayFromImage(image).astype(np.float32)
                    values = values ** random_numbers.uniform(0.8, 1.25)
                    values += random_numbers.normal(0, 0.03 * values.std(), values.shape)
                    copy = sitk.GetImageFromArray(values.astype(np.float32))
                    copy.CopyInformation(image)
                    image = copy
                image.SetOrigin(np.add(image.GetOrigin(), (seed % 5 - 2, seed % 3 - 1, 1.0)))
                sitk.WriteImage(image, str(moving).replace("_img", f"_{name}"))
        yield hippocampus_row(fixed, moving, "copy")


def write_rows(found: Sequence[Row], path: Path) -> None:
    """Write the table of a cohort."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(found)


def command(table: Path, out: Path, jobs: int, *more: str) -> list[str]:
    """``iterreg cohort run`` with one thread a worker."""
    words = [sys.executable, "-m", "iterreg", "cohort", "run", str(table), "--out", str(out)]
    return [*words, "--jobs", str(jobs), "--threads", "1", *more]
