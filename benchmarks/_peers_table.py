"""The rows of ``peers.py``: kept as JSON, printed as a table."""

from __future__ import annotations

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CASES = (
    "thorax4dct",
    "thorax4dct_mini",
    "acdc-067",
    "acdc-068",
    "acdc-067-back",
    "acdc-068-back",
    "acdc-067-128x128x16",
    "acdc-068-128x128x16",
    *(f"hippocampus-{n}" for n in range(1, 7)),
    "brain",
)
METHODS = ("iterreg", "greedy", "ants", "elastix", "convexadam", "fireants")
GUIDANCES = ("images", "labels", "left out")

COLUMNS = (
    ("Dice", "dice", "{:.4f}"),
    ("HD95", "hd95_mm", "{:.2f}"),
    ("TRE", "tre_mm", "{:.3f}"),
    ("left out", "left_out_dice", "{:.3f}"),
    ("SDlogJ", "sdlogj", "{:.3f}"),
    ("SD reg", "sdlogj_regions", "{:.3f}"),
    ("SD L2R", "sdlogj_l2r", "{:.3f}"),
    ("folds", "interior_folds", "{:.0f}"),
    ("f. reg", "region_folds", "{:.0f}"),
    ("f. intf", "interface_folds", "{:.0f}"),
    ("NDV %", "ndv_percent", "{:.4f}"),
    ("cover", "coverage", "{:.3f}"),
    ("volume", "volume_change_worst", "{:.2f}"),
    ("wall s", "wall_s", "{:.1f}"),
    ("CPU s", "cpu_s", "{:.1f}"),
    ("GB", "peak_gb", "{:.2f}"),
)
LEGEND = """\
Dice, HD95 (mm): means over labels. TRE (mm): automatic landmarks (landmarks.py). left out: Dice of
the structure that guidance did not hold. SDlogJ: std of log det J of the whole image; SD reg: of
the interior of the regions; SD L2R: SDlogJ-L2R, another number, which the
Learn2Reg evaluator computes. folds: voxels that fold in the
interior; f. reg: of these in the regions, not in the background; f. intf: at interfaces. NDV %:
non-diffeomorphic volume of the whole field (Liu et al., IJCV 2024); folds of rows without it are
counted by the eight corner determinants alone, those of rows with it by all ten. cover: share of
the moving region that is reached. volume: the change furthest from 1. Several cases of a group are
averaged (volume: the geometric mean)."""


def load_rows() -> list[dict[str, Any]]:
    """The rows that are kept."""
    path = RESULTS / "peers.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return rows


def keep(new: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Add rows to those that are kept, in place of older ones of the same key."""

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(row[name] for name in ("case", "method", "setting", "guidance"))

    machine = f"{os.cpu_count()} CPU cores"
    fresh = {key(row): row | {"group": about["group"], "machine": machine} for row in new}
    rows = [row for row in load_rows() if key(row) not in fresh] + list(fresh.values())
    order = {name: rank for rank, name in enumerate((*CASES, "before", *METHODS))}
    ranks = {name: rank for rank, name in enumerate(("", *GUIDANCES))}
    rows.sort(
        key=lambda r: (
            order.get(r["case"], 99),
            r["case"],
            ranks[r["guidance"]],
            order[r["method"]],
            r["setting"],
        )
    )
    RESULTS.mkdir(exist_ok=True)
    aside = RESULTS / "peers.json.part"
    aside.write_text(json.dumps(rows, indent=1) + "\n")
    aside.replace(RESULTS / "peers.json")


def table(rows: list[dict[str, Any]]) -> str:
    """All rows as text, cases of a group together."""
    groups: dict[str, dict[tuple[str, ...], list[dict[str, Any]]]] = {}
    for row in rows:
        key = (row["guidance"], row["method"], row["setting"])
        groups.setdefault(row["group"], {}).setdefault(key, []).append(row)
    lines = [LEGEND]
    for group, kinds in groups.items():
        cases = sorted({row["case"] for found in kinds.values() for row in found})
        lines += ["", f"{group} ({', '.join(cases)})" if cases != [group] else group]
        lines.append(f"{'':<32}" + "".join(f"{title:>9}" for title, _, _ in COLUMNS))
        lines += [line(key, found, len(cases)) for key, found in kinds.items()]
    return "\n".join(lines)


def line(key: tuple[str, ...], found: list[dict[str, Any]], cases: int) -> str:
    """One kind of run over the cases of its group."""
    guidance, method, setting = key
    head = f"{method + (' ' + setting if setting else ''):<22} {guidance:<8} "
    good = [row for row in found if "note" not in row]
    if not good:
        return head + f"  {found[0]['note']}"
    cells = "".join(f"{cell(good, name, form):>9}" for _, name, form in COLUMNS)
    return head + cells + (f"  {len(good)} of {cases} cases" if len(good) < cases else "")


def cell(rows: list[dict[str, Any]], name: str, form: str) -> str:
    """The mean of a figure, or a dash."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return "-"
    if name == "volume_change_worst":
        return form.format(math.exp(statistics.mean(math.log(max(v, 1e-9)) for v in values)))
    return form.format(statistics.mean(values))
