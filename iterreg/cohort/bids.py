"""Cases from a BIDS data set: two queries, paired by what they do not name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iterreg.cohort.cases import Case
from iterreg.cohort.table import Defaults, check_cases, no_work, table_error
from iterreg.errors import ConfigError, ImageReadError
from iterreg.texts import one_line
from iterreg.versions import import_package

INSTALL = "pip install 'iterreg[bids]'"

IMAGES = ["nii", "nii.gz"]

Query = Mapping[str, list[str]]

SHORT = {"sub": "subject", "ses": "session", "acq": "acquisition", "rec": "reconstruction"}
"""Words of file names, and the names that pybids has for them."""

NEVER_PAIRED = ("extension", "datatype", "fmap")


def parse_query(text: str) -> dict[str, list[str]]:
    """Read a query: ``entity=value`` separated by commas, several values by a bar.

    Raises:
        ConfigError: it is written in another way.

    Example:
        >>> parse_query("ses=01,suffix=T1w|T2w")
        {'session': ['01'], 'suffix': ['T1w', 'T2w']}
    """
    query: dict[str, list[str]] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or not name or not value:
            words = one_line(text, 60)
            raise ConfigError(f"query: expected entity=value, separated by commas, got {words!r}")
        query[SHORT.get(name, name)] = value.split("|")
    return query


def bids_cases(folder: Path, fixed: Query, moving: Query, defaults: Defaults) -> tuple[Case, ...]:
    """Pair the images of a BIDS data set.

    A fixed image gets the moving images that agree with it in every entity which neither query
    names: with ``ses=01`` and ``ses=02``, those of the same subject, run and suffix.

    Args:
        folder: of the data set.
        fixed, moving: entities and their values, by :func:`parse_query`.
        defaults: preset and changes for all.

    Raises:
        MissingDependencyError: pybids is not installed.
        ImageReadError: no data set lies there, or the queries pair nothing.
        ConfigError: no preset, or two images for one side of a pair.
    """
    if defaults.preset is None:
        raise ConfigError("preset: expected a name, got none; add --preset")
    named = {*fixed, *moving}
    sides = [_by_rest(_files(folder, query), named) for query in (fixed, moving)]
    both = sorted(set(sides[0]) & set(sides[1]))
    problems, cases = [], []
    for rest in both:
        words = ", ".join(f"{k}={v}" for k, v in rest) or "the data set"
        for side, query in zip(sides, ("fixed", "moving"), strict=True):
            if len(side[rest]) > 1:
                names = ", ".join(os.path.basename(f) for f in side[rest][:3])
                problems.append(f"{words}: the {query} query finds {len(side[rest])}: {names}")
        files = {"fixed": sides[0][rest][0], "moving": sides[1][rest][0]}
        if files["fixed"] != files["moving"]:
            name = f"{_stem(files['fixed'])}__{_stem(files['moving'])}"
            overrides, table = dict(defaults.overrides), defaults.label_table
            cases.append(Case(name, files, defaults.preset, overrides, table))
    problems += check_cases(cases) if not problems else []
    if problems:
        raise table_error(f"{folder}: {no_work(problems)}", problems)
    if not cases:
        counts = [sum(map(len, side.values())) for side in sides]
        raise ImageReadError(
            f"{folder}: the queries pair nothing; the fixed one finds {counts[0]} images, the "
            f"moving one {counts[1]}"
        )
    return tuple(cases)


def _files(folder: Path, query: Query) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The images that a query finds: absolute path and entities."""
    bids = import_package("bids", "a BIDS data set", INSTALL)
    if not os.path.isfile(folder / "dataset_description.json"):
        raise ImageReadError(f"{folder}: expected a BIDS data set with dataset_description.json")
    try:
        layout = bids.BIDSLayout(str(folder.absolute()), validate=True)
        known = set(layout.get_entities())
        unknown = sorted(set(query) - known)
        if unknown:
            raise ConfigError(
                f"query: expected one of {', '.join(sorted(known))}, got {unknown[0]!r}"
            )
        found = layout.get(return_type="object", extension=IMAGES, **query)
    except (ValueError, OSError, KeyError) as error:
        raise ImageReadError(f"{folder}: pybids: {one_line(str(error), 300)}") from error
    return sorted((f.path, f.get_entities()) for f in found)


def _by_rest(
    files: Sequence[tuple[str, Mapping[str, Any]]], named: set[str]
) -> dict[tuple[tuple[str, str], ...], list[str]]:
    """Files by the entities that no query names."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = defaultdict(list)
    for path, entities in files:
        rest = {k: str(v) for k, v in entities.items() if k not in (*named, *NEVER_PAIRED)}
        groups[tuple(sorted(rest.items()))].append(path)
    return groups


def _stem(path: str) -> str:
    return os.path.basename(path).removesuffix(".gz").removesuffix(".nii")
