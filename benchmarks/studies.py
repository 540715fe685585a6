"""The studies of the SegReg paper, with the optimiser alone, on the real pairs at hand.

    python benchmarks/studies.py quality classes regionwise [--cases GLOB ...] [--seeds N]
    python benchmarks/studies.py losses [--steps N]
    python benchmarks/studies.py --plot

- ``quality``: how accuracy depends on the segmentation. The label maps of both images are spoiled
  by moving their boundaries at random, smoothly, until their Dice with the true ones is as wanted;
  the pair is registered with them and judged by the true ones. The paper finds the dependence near
  linear (its Figure 7, with networks stopped early; here the boundaries are moved instead).
- ``classes``: the same pair guided by fewer classes: none, foreground, two, all. Judged by all.
- ``regionwise``: one dense field with every interface glued, the same with every interface
  sliding, and sub-fields: one smooth field per region, fitted to the evidence in it and just around
  it, composed by the fixed label map. Guidance and preset are otherwise the same.
- ``losses``: the paper's mask losses (Dice, EDT, both) at its weights in this optimiser, and the
  preset, on ACDC at 128 x 128 x 16 both ways; and the paper's backbone, a UNet whose weights are
  optimised for the pair (``_losses.py``). The table has the layout of the paper's Tables 1 and 3.

Everything is judged by ``_evaluator.py``. Results are kept by study, case and setting in
results/studies.json, so that parts can be run apart; the plots are results/study_*.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CASES = ("acdc-067", "acdc-068", *(f"hippocampus-{n}" for n in range(1, 7)), "thorax4dct_mini")
GROUPS = {"acdc": "cardiac MR", "hippocampus": "hippocampus", "thorax4dct_mini": "4D-CT at 4 mm"}
QUALITIES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)
WIGGLE_MM = {"cardiac": 8.0, "hippocampus": 5.0, "thorax": 16.0}
"""Over which the random motion of boundaries changes: less than the size of what they bound."""
FIT_FROM = 0.8
"""A line is fitted to label maps at least this good: the images take over from much worse ones."""
FEWER = {
    "cardiac": {"foreground": {1: 1, 2: 1, 3: 1}, "two": {1: 1, 2: 2, 3: 2}},
    "hippocampus": {"foreground": {1: 1, 2: 1}},
    "thorax": {"foreground": {1: 1, 2: 1, 3: 1}, "two": {1: 1, 2: 2, 3: 1}},
}
"""Classes that are merged, by the kind of pair: the ventricle with its wall, bone with tissue."""
HEARTS = tuple(f"acdc-{n}-128x128x16{way}" for n in ("067", "068") for way in ("", "-back"))
FIGURES = (
    "dice",
    "hd95_mm",
    "sdlogj",
    "sdlogj_regions",
    "interior_folds",
    "interface_folds",
    "coverage",
    "volume_change_worst",
    "tre_mm",
)

Row = dict[str, Any]
Labels = tuple[Any, Any]


def main() -> None:
    """Run the studies that are asked for, then plot all that is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []])
    parser.add_argument("--cases", nargs="+", metavar="GLOB", default=["*"])
    parser.add_argument("--seeds", type=int, default=1, help="spoilt label maps for each quality")
    parser.add_argument(
        "--steps", type=int, default=120, help="of the backbone of losses; 0: without it"
    )
    parser.add_argument("--plot", action="store_true", help="plot the kept rows, and stop")
    asked = parser.parse_args()
    for study in () if asked.plot else asked.studies or list(STUDIES):
        known = HEARTS if study == "losses" else CASES
        for name in (n for n in known if any(fnmatch.fnmatch(n, g) for g in asked.cases)):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / "case"
                prepare(name, folder)
                amount = asked.steps if study == "losses" else asked.seeds
                for row in STUDIES[study](Pair(name, folder), amount):
                    keep(row | {"study": study, "case": name})
    plot(load_rows())


# Pairs ------------------------------------------------------------------------------------------


class Pair:
    """A case that is read once and registered with one guidance after another."""

    def __init__(self, name: str, folder: Path) -> None:
        from iterreg import preset_names, read_image, read_label_map

        about = json.loads((folder / "case.json").read_text())
        names = json.loads((folder / "names.json").read_text())
        self.name, self.folder, self.kind = name, folder, about["preset"]
        self.preset = self.kind if self.kind in preset_names() else "general"
        self.names = {int(value): title for value, title in names.items()}
        sides = ("fixed", "moving")
        self.images = tuple(read_image(folder / f"{side}.nii.gz") for side in sides)
        self.labels: Labels = tuple(  # type: ignore[assignment]
            read_label_map(folder / f"{side}_labels.nii.gz", self.names) for side in sides
        )

    def judged(self, labels: Labels | None, overrides: dict[str, Any] | None = None) -> Row:
        """Register, judge by the true labels, keep what matters."""
        done = self.registered(labels, overrides)
        return self.scored(done.transform, sum(done.timings_s.values()))

    def registered(
        self, labels: Labels | None, overrides: dict[str, Any] | None = None, mask: Any = None
    ) -> Any:
        """The registration guided by some labels, on evidence within a mask."""
        from iterreg import optimize_pair

        fixed, moving = labels or (None, None)
        changes = dict(overrides or {}) | ({} if labels else {"segmenter": "none"})
        return optimize_pair(
            *self.images,
            fixed_labels=fixed,
            moving_labels=moving,
            preset=self.preset,
            fixed_mask=mask,
            overrides=changes,
            device="cpu",
        )

    def scored(self, transform: Any, seconds: float) -> Row:
        """A transform's figures."""
        from _evaluator import judge

        from iterreg.io import write_displacement_mm

        field = self.folder / "field.mha"
        write_displacement_mm(transform, field)
        figures = judge(self.folder, field)
        row: Row = {name: figures[name] for name in FIGURES if figures.get(name) is not None}
        row["dice_by_label"] = figures.get("dice_by_label", {})
        row |= {"seconds": seconds, "preset": self.preset}
        print(f"{self.name}: Dice {row['dice']:.4f}, {row['interior_folds']} folds", flush=True)
        return row


def prepare(name: str, folder: Path) -> None:
    """Make the case's folder."""
    done = subprocess.run(
        [sys.executable, str(HERE / "_cases.py"), name, str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit((done.stderr.strip() or "failed").splitlines()[-1])


def relabelled(labels: Any, data: NDArray[Any], names: dict[int, str]) -> Any:
    """A label map with other voxels."""
    import torch

    values = torch.from_numpy(np.ascontiguousarray(data, dtype=np.int32))
    return dataclasses.replace(labels, data=values, names=names)


# Studies ----------------------------------------------------------------------------------------


def quality(pair: Pair, seeds: int) -> Iterator[Row]:
    """Accuracy against the Dice of the label maps that are given."""
    for seed in range(seeds):
        for wanted in QUALITIES if seed == 0 else QUALITIES[1:]:
            spoilt, reached = [], []
            for side, labels in enumerate(pair.labels):
                motion = random_motion(labels, WIGGLE_MM[pair.kind], 2 * seed + side)
                data, found = spoilt_to(labels, motion, wanted)
                spoilt.append(relabelled(labels, data, pair.names))
                reached.append(found)
            row = pair.judged((spoilt[0], spoilt[1]))
            yield row | {"setting": f"{wanted:.2f}/{seed}", "given_dice": float(np.mean(reached))}


def random_motion(labels: Any, sigma_mm: float, seed: int) -> NDArray[Any]:
    """(3, *shape) voxels: smoothed noise, a root mean square of one mm."""
    from scipy.ndimage import gaussian_filter

    spacing = np.array(labels.grid.spacing_zyx_mm)
    noise = np.random.default_rng(seed).standard_normal((3, *labels.data.shape))
    smooth = np.stack([gaussian_filter(part, sigma_mm / spacing) for part in noise])
    smooth /= np.sqrt((smooth**2).sum(0).mean())
    return smooth / spacing[:, None, None, None]


def spoilt_to(labels: Any, motion: NDArray[Any], wanted: float) -> tuple[NDArray[Any], float]:
    """Move the boundaries until the mean Dice with the true labels is as wanted."""
    true = labels.data.numpy()
    if wanted >= 1:
        return true, 1.0
    low, high = 0.0, 40.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if dice(true, moved(true, motion * middle)) > wanted else (low, middle)
        )
    data = moved(true, motion * low)
    return data, dice(true, data)


def moved(labels: NDArray[Any], motion_vox: NDArray[Any]) -> NDArray[Any]:
    """Labels pulled along a motion."""
    from scipy.ndimage import map_coordinates

    place = np.indices(labels.shape) + motion_vox
    result: NDArray[Any] = map_coordinates(labels, place, order=0, mode="nearest")
    return result


def dice(true: NDArray[Any], other: NDArray[Any]) -> float:
    """The mean over labels."""
    values = [int(v) for v in np.unique(true) if v > 0]
    scores = [
        2 * ((true == v) & (other == v)).sum() / ((true == v).sum() + (other == v).sum())
        for v in values
    ]
    return float(np.mean(scores))


def classes(pair: Pair, seeds: int) -> Iterator[Row]:
    """Accuracy against the number of classes that guide."""
    yield pair.judged(None) | {"setting": "none"}
    for name, merge in FEWER[pair.kind].items():
        table = np.zeros(max(merge) + 1, np.int32)
        table[list(merge)] = list(merge.values())
        titles = {
            new: " and ".join(pair.names[old] for old in merge if merge[old] == new)
            for new in set(merge.values())
        }
        merged = tuple(relabelled(m, table[m.data.numpy()], titles) for m in pair.labels)
        yield pair.judged(merged) | {"setting": name}  # type: ignore[arg-type]
    yield pair.judged(pair.labels) | {"setting": "all"}


GLUED = {"smoothness.sliding": []}
SLIDING = {"smoothness.sliding_weight": 0.05, "smoothness.sliding": [["*", "*"]]}


def regionwise(pair: Pair, seeds: int) -> Iterator[Row]:
    """Dense with and without sliding, and sub-fields."""
    yield pair.judged(pair.labels, GLUED) | {"setting": "dense, glued"}
    yield pair.judged(pair.labels, SLIDING) | {"setting": "dense, sliding"}
    yield subfields(pair) | {"setting": "sub-fields"}


def subfields(pair: Pair) -> Row:
    """A field for every region, and one for what is around them, each in its own place."""
    import torch
    from scipy.ndimage import binary_dilation

    from iterreg.displacement import DisplacementField, Transform, total_displacement_vox

    truth = pair.labels[0].data
    composed, seconds = torch.zeros(3, *truth.shape), 0.0
    for value in [0, *pair.labels[0].values]:
        inside = (truth == value).int()
        # Two voxels more: where the known ends is no boundary, and the region's own has to be one.
        around = binary_dilation(inside.numpy(), iterations=2).astype(np.int32)
        only = tuple(
            relabelled(m, (m.data == value if value else m.data > 0).int().numpy(), {1: "region"})
            for m in pair.labels
        )
        mask = relabelled(pair.labels[0], around, {})
        done = pair.registered(only, GLUED, mask)  # type: ignore[arg-type]
        composed += total_displacement_vox(done.transform) * inside
        seconds += sum(done.timings_s.values())
    field = DisplacementField(composed, pair.images[0].grid)
    return pair.scored(Transform(np.eye(4), field), seconds)


def losses(pair: Pair, steps: int) -> Iterator[Row]:
    """The paper's losses and its backbone, and the preset."""
    import _losses
    import torch

    from iterreg.displacement import DisplacementField, Transform

    still = DisplacementField(torch.zeros(3, *pair.labels[0].data.shape), pair.images[0].grid)
    yield pair.scored(Transform(np.eye(4), still), 0.0) | {"setting": "initial"}
    for kind in _losses.WEIGHTS:
        yield pair.judged(pair.labels, _losses.settings(kind)) | {"setting": kind}
    yield pair.judged(pair.labels) | {"setting": "cardiac"}
    yield pair.judged(None) | {"setting": "cardiac, images alone"}
    for kind in _losses.WEIGHTS if steps else ():
        yield pair.scored(*_losses.by_backbone(pair, kind, steps)) | {
            "setting": f"backbone, {kind}",
            "steps": steps,
        }


STUDIES: dict[str, Callable[[Pair, int], Iterator[Row]]] = {
    "quality": quality,
    "classes": classes,
    "regionwise": regionwise,
    "losses": losses,
}


# Rows and plots ---------------------------------------------------------------------------------


def load_rows() -> list[Row]:
    """The rows that are kept."""
    path = RESULTS / "studies.json"
    rows: list[Row] = json.loads(path.read_text()) if path.is_file() else []
    return rows


def keep(new: Row) -> None:
    """Add a row in place of one of the same study, case and setting."""

    def key(row: Row) -> tuple[str, ...]:
        return row["study"], row["case"], row["setting"]

    rows = [row for row in load_rows() if key(row) != key(new)] + [new]
    rows.sort(key=lambda row: (row["study"], (*CASES, *HEARTS).index(row["case"])))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "studies.json").write_text(json.dumps(rows, indent=1) + "\n")


def group_of(row: Row) -> str:
    """What a case is drawn with."""
    return next(title for start, title in GROUPS.items() if row["case"].startswith(start))


def plot(rows: list[Row]) -> None:
    """Draw every study that has rows."""
    import matplotlib

    matplotlib.use("Agg")
    draw = {"quality": plot_quality, "classes": plot_classes, "regionwise": plot_regionwise}
    for study, function in draw.items():
        mine = [row for row in rows if row["study"] == study]
        if mine:
            function(mine)
    tell_losses([row for row in rows if row["study"] == "losses"])


def tell_losses(rows: list[Row]) -> None:
    """Print the study of losses: means over the pairs, and the worst HD95."""
    titles = ("Dice %", "RV", "Myo", "LV", "HD95 mm", "worst", "SDlogJ", "folds", "s")
    if rows:
        print(f"{'':24}" + "".join(f"{title:>9}" for title in titles))
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == setting]
        labels = [np.mean([row["dice_by_label"][v] for row in own]) for v in "123"]
        hd95 = [row["hd95_mm"] for row in own]
        cells = [f"{100 * v:9.2f}" for v in (np.mean([row["dice"] for row in own]), *labels)]
        cells += [f"{v:9.2f}" for v in (np.mean(hd95), max(hd95))]
        cells.append(f"{np.mean([row['sdlogj'] for row in own]):9.3f}")
        folds = [row["interior_folds"] + row["interface_folds"] for row in own]
        cells += [f"{np.mean(folds):9.1f}", f"{np.mean([row['seconds'] for row in own]):9.1f}"]
        print(f"{setting:24}" + "".join(cells))


def plot_quality(rows: list[Row]) -> None:
    """Dice of the registration against Dice of the label maps, one panel a group."""
    figure, panels = panels_of(rows)
    for axis, (title, found) in panels:
        x, y = (np.array([row[k] for row in found]) for k in ("given_dice", "dice"))
        cases = [row["case"] for row in found]
        good = x > FIT_FROM - 0.01
        slope, fit = common_slope(x[good], y[good], np.array(cases)[good])
        print(f"quality, {title}: slope {slope:.2f}, R2 {fit:.3f} from {FIT_FROM} (offset by case)")
        axis.plot([x.min(), 1], [x.min(), 1], ":", color="0.6", label="as good as the labels")
        ends = np.array([FIT_FROM, 1.0])
        for k, case in enumerate(sorted(set(cases))):
            own = np.array([c == case for c in cases])
            fitted = own & good
            line = y[fitted].mean() + slope * (ends - x[fitted].mean())
            told = f"slope {slope:.2f}, R² {fit:.2f}" if k == 0 else None
            axis.plot(ends, line, color=f"C{k}", lw=0.8, label=told)
            axis.plot(x[own], y[own], "o", ms=4, color=f"C{k}")
        axis.set(title=title, xlabel="Dice of the label maps given")
        axis.legend(fontsize=8, loc="upper left")
    panels[0][0].set_ylabel("Dice of the registration, true labels")
    save(figure, "study_quality.png")


def common_slope(x: NDArray[Any], y: NDArray[Any], cases: NDArray[Any]) -> tuple[float, float]:
    """One slope with an offset for each case, and the share of variance within cases explained."""
    for name in set(cases):
        own = cases == name
        x, y = (np.where(own, v - v[own].mean(), v) for v in (x, y))
    slope = float((x * y).sum() / max(float((x * x).sum()), 1e-12))
    rest = float(((y - slope * x) ** 2).sum())
    return slope, 1 - rest / max(float((y**2).sum()), 1e-12)


def plot_classes(rows: list[Row]) -> None:
    """Dice and HD95 against the classes that guide."""
    compare(rows, ("none", "foreground", "two", "all"), "classes that guide", "study_classes.png")


def plot_regionwise(rows: list[Row]) -> None:
    """Dice, HD95 and SDlogJ of the ways to let regions move apart."""
    settings = ("dense, glued", "dense, sliding", "sub-fields")
    compare(rows, settings, "representation", "study_regionwise.png")


def compare(rows: list[Row], settings: tuple[str, ...], name: str, file: str) -> None:
    """Each case a dot, the mean of its group a dash; printed as well."""
    figures = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "sdlogj_regions": "SDlogJ in the regions"}
    figure, axes = subplots(len(figures))
    groups = list(dict.fromkeys(group_of(row) for row in rows))
    for axis, (key, title) in zip(axes, figures.items(), strict=True):
        for k, setting in enumerate(settings):
            shift = 0.8 / len(settings) * (k - (len(settings) - 1) / 2)
            for place, group in enumerate(groups):
                values = [row[key] for row in of(rows, group, setting)]
                axis.plot([place + shift] * len(values), values, ".", color=f"C{k}", ms=5)
                if values:
                    axis.plot([place + shift], [np.mean(values)], "_", color=f"C{k}", ms=16, mew=3)
        axis.set_xticks(range(len(groups)), groups)
        axis.set_xlim(-0.6, len(groups) - 0.4)
        axis.grid(axis="y", color="0.9")
        axis.set_title(title)
    for k, setting in enumerate(settings):
        axes[0].plot([], [], "_", color=f"C{k}", ms=12, mew=3, label=setting)
    axes[0].legend(title=name, fontsize=8, title_fontsize=8)
    for group in groups:
        for setting in settings:
            told_of(rows[0]["study"], group, setting, of(rows, group, setting))
    save(figure, file)


def of(rows: list[Row], group: str, setting: str) -> list[Row]:
    """The rows of a group at a setting."""
    return [row for row in rows if group_of(row) == group and row["setting"] == setting]


def told_of(study: str, group: str, setting: str, rows: list[Row]) -> None:
    """Print the means of every figure."""
    known = [name for name in FIGURES if any(name in row for row in rows)]
    means = {name: np.mean([row[name] for row in rows if name in row]) for name in known}
    if means:
        print(f"{study}, {group}, {setting}:", ", ".join(f"{n} {v:.3f}" for n, v in means.items()))


def panels_of(rows: list[Row]) -> tuple[Any, list[tuple[Any, tuple[str, list[Row]]]]]:
    """A figure with one panel a group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    figure, axes = subplots(len(groups))
    return figure, list(zip(axes, groups.items(), strict=True))


def subplots(count: int) -> tuple[Any, list[Any]]:
    """A row of panels."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(4 * count, 3.6), squeeze=False)
    return figure, list(axes[0])


def save(figure: Any, name: str) -> None:
    """Write a picture."""
    figure.tight_layout()
    figure.savefig(RESULTS / name, dpi=120)


if __name__ == "__main__":
    main()
