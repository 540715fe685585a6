"""Cases from lists of files: all to one, or each to each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from iterreg.cohort.cases import Case, is_safe_id
from iterreg.cohort.table import Defaults, check_cases, no_work, table_error
from iterreg.errors import ConfigError

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".jpg", ".tif", ".tiff")


def all_to(fixed: Path, files: Sequence[Path], defaults: Defaults) -> tuple[Case, ...]:
    """Pair every file, as the moving image, with one fixed image.

    Raises:
        ConfigError: no preset, no files, files that are missing, or names that are alike.
    """
    if not files:
        raise ConfigError("all-to: expected files to register to it, got none")
    names = names_of(files)
    moving = [f for f in files if os.path.abspath(f) != os.path.abspath(fixed)]
    pairs = [(names[file], fixed, file) for file in moving]
    return _cases(pairs, defaults)


def each_to_each(files: Sequence[Path], defaults: Defaults) -> tuple[Case, ...]:
    """Pair every file, as the fixed image, with every other: N (N - 1) cases.

    Raises:
        ConfigError: no preset, fewer than two files, files that are missing, or names that are
            alike.
    """
    if len(files) < 2:
        raise ConfigError(f"each-to-each: expected at least 2 files, got {len(files)}")
    names = names_of(files)
    pairs = [
        (f"{names[fixed]}__{names[moving]}", fixed, moving)
        for fixed in files
        for moving in files
        if fixed != moving
    ]
    return _cases(pairs, defaults)


def _cases(pairs: Sequence[tuple[str, Path, Path]], defaults: Defaults) -> tuple[Case, ...]:
    if defaults.preset is None:
        raise ConfigError("preset: expected a name, got none; add --preset")
    cases = tuple(
        Case(
            name,
            {"fixed": os.path.abspath(fixed), "moving": os.path.abspath(moving)},
            defaults.preset,
            dict(defaults.overrides),
            defaults.label_table,
        )
        for name, fixed, moving in pairs
    )
    problems = check_cases(cases)
    if problems:
        raise table_error(no_work(problems), problems)
    return cases


def names_of(files: Sequence[Path]) -> dict[Path, str]:
    """Name each file: by its own name, or where those are alike by as many folders as it needs.

    Raises:
        ConfigError: a file is there twice, or its name cannot be that of a folder.

    Example:
        >>> list(names_of([Path("a/x.nii.gz"), Path("b/x.nii.gz")]).values())
        ['a_x', 'b_x']
    """
    twice = sorted({str(f) for f in files if list(files).count(f) > 1})
    if twice:
        raise table_error("files: expected each once", [f"{twice[0]}: is there twice"])
    names: dict[Path, str] = {}
    for depth in range(1, 12):
        names = {file: _name(file, depth) for file in files}
        if len({name.lower() for name in names.values()}) == len(files):
            break
    bad = [
        f"{file}: its name cannot be an id" for file, name in names.items() if not is_safe_id(name)
    ]
    if bad:
        raise table_error("files: expected names of letters, digits, '.', '_' and '-'", bad)
    return names


def _name(file: Path, depth: int) -> str:
    stem = file.name
    suffix = next((s for s in SUFFIXES if stem.lower().endswith(s)), "")
    stem = stem[: len(stem) - len(suffix)] if suffix else stem
    folders = [part for part in file.parts[:-1] if part not in ("/", ".", "..")]
    return "_".join([*folders[len(folders) - depth + 1 :], stem][-depth:])
