"""The folder of a cohort, and ``cohort.json`` in it: all cases and how they are run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iterreg.atomic import STAGING_PREFIX, write_json
from iterreg.cohort.cases import Case, Settings
from iterreg.cohort.records import CASES
from iterreg.errors import ConfigError, ImageReadError, OutputError
from iterreg.texts import parse_json

SCHEMA = 1
"""Version of ``cohort.json``."""

PLAN = "cohort.json"


@dataclass(frozen=True)
class Plan:
    """All cases of a cohort, and how they are run.

    Args:
        cases: in the order of the table.
        settings: the same for all.

    Example:
        >>> Plan((), Settings("/data/cohort")).cases
        ()
    """

    cases: tuple[Case, ...]
    settings: Settings

    @property
    def folder(self) -> Path:
        """Of the cohort."""
        return Path(self.settings.folder)


def open_folder(plan: Plan) -> None:
    """Make the folder of a cohort and write its ``cohort.json``; an earlier one is replaced.

    Raises:
        OutputError: the folder cannot be written, or holds something else than a cohort, or another
            one: none of its pairs is in this one.
    """
    folder = plan.folder
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise OutputError(f"{folder}: expected a folder for the results, got a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = [f for f in os.listdir(folder) if not f.startswith(STAGING_PREFIX)]
        if found and PLAN not in found:
            raise OutputError(
                f"{folder}: expected an empty folder or that of a cohort, got one with "
                f"{len(found)} entries ({min(found)}) and no {PLAN}"
            )
        if found:
            _require_same(plan)
        (folder / CASES).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    tables = {
        "schema": SCHEMA,
        "settings": {k: v for k, v in dataclasses.asdict(plan.settings).items() if k != "folder"},
        "cases": [_row(case) for case in plan.cases],
    }
    write_json(tables, folder / PLAN)


def _require_same(plan: Plan) -> None:
    """Refuse the folder of another cohort, whose results would be lost from the tables."""
    earlier: dict[str, tuple[str, str]] = {}
    with suppress(ImageReadError):  # a damaged one is written anew
        earlier = {case.id: _names(case) for case in read_plan(plan.folder).cases}
    now = {case.id: _names(case) for case in plan.cases}
    if earlier and not earlier.items() & now.items():
        first = next(iter(earlier))
        raise OutputError(
            f"{plan.folder}: holds another cohort of {len(earlier)} pairs, none of which is in "
            f"this one (first: {first}, {' and '.join(earlier[first])}); expected its own folder"
        )


def _names(case: Case) -> tuple[str, str]:
    """The names of a case's images, which stay where data are moved."""
    fixed, moving = (os.path.basename(case.files[side]) for side in ("fixed", "moving"))
    return fixed, moving


def read_plan(folder: str | Path) -> Plan:
    """Read the plan of a cohort.

    Args:
        folder: of the cohort; its ``cohort.json`` may have been written elsewhere.

    Raises:
        ImageReadError: there is no such plan, or it is damaged.
    """
    path = Path(folder) / PLAN
    try:
        tables = parse_json(path.read_text("utf-8"))
        if tables["schema"] != SCHEMA:
            raise ImageReadError(f"{path}: expected schema {SCHEMA}, got {tables['schema']!r}")
        values = tables["settings"]
        values["command_line"] = tuple(values.get("command_line", ()))
        settings = Settings(str(Path(folder).absolute()), **values)
        return Plan(tuple(Case(**row) for row in tables["cases"]), settings)
    except FileNotFoundError as error:
        message = f"{path}: no such file; expected the folder of iterreg cohort run"
        raise ImageReadError(message) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageReadError(f"{path}: expected the {PLAN} of a cohort: {error}") from error


def _row(case: Case) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(case).items() if v not in (None, {})}


@dataclass(frozen=True)
class Shard:
    """One of several equal parts of a cohort, for array jobs.

    Args:
        number: from 1.
        count: of all parts.

    Example:
        >>> Shard(2, 3).of("abcdefg")
        ('b', 'e')
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``.

        Raises:
            ConfigError: not two numbers, or i is not 1 to n.

        Example:
            >>> Shard.parse("2/8")
            Shard(number=2, count=8)
        """
        number, slash, count = text.partition("/")
        both = number.strip(), count.strip()
        if not slash or not all(n.isdecimal() and len(n) < 8 for n in both):
            raise ConfigError(f"shard: expected i/n such as 2/8, got {text[:40]!r}")
        shard = cls(*map(int, both))
        if not 1 <= shard.number <= shard.count:
            raise ConfigError(f"shard: expected 1/n to n/n, got {text[:40]!r}")
        return shard

    def of(self, items: Iterable[Any]) -> tuple[Any, ...]:
        """The part of some items: every ``count``-th."""
        return tuple(items)[self.number - 1 :: self.count]


def only(cases: Sequence[Case], ids: Sequence[str]) -> tuple[Case, ...]:
    """The cases with some ids, in the plan's order.

    Raises:
        ConfigError: no case has one of the ids.
    """
    known = {case.id for case in cases}
    missing = [i for i in ids if i not in known]
    if missing:
        raise ConfigError(f"cases: no case has the id {missing[0][:60]!r}")
    return tuple(case for case in cases if case.id in set(ids))
