"""What differs from task to task: the preset, and what the leaderboard measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iterreg.config import preset_names
from iterreg.errors import ConfigError
from iterreg.learn2reg.task import Pair, Task, pair_of, read_json

METRICS = ("sdlogj", "dice", "hd95", "tre")


@dataclass(frozen=True)
class Method:
    """One thing that is measured.

    Args:
        name: the leaderboard's word for it.
        metric: one of :data:`METRICS`.
        labels: for dice and hd95.
        points: for tre: keypoints or landmarks.
    """

    name: str
    metric: str
    labels: tuple[int, ...] = ()
    points: str = "keypoints"


@dataclass(frozen=True)
class Evaluation:
    """What the evaluator's configuration holds.

    Args:
        methods: what is measured.
        shape_ijk: of a field, without its components.
        pairs: the cases.
        masked: whether SDlogJ is taken inside the fixed mask.
    """

    methods: tuple[Method, ...]
    shape_ijk: tuple[int, int, int] | None
    pairs: tuple[Pair, ...]
    masked: bool


@dataclass(frozen=True)
class TaskRules:
    """How a task is registered and judged.

    Args:
        presets: in order of preference; the first that this version has is taken.
        overrides: of a general preset, for images of this task's resolution.
        methods: as in the task's public configuration.
        masked: as in the task's public configuration.
        region_target: table into which named structures are merged, or empty.
    """

    presets: tuple[str, ...]
    methods: tuple[Method, ...]
    masked: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    region_target: str = ""


_SDLOGJ = Method("LogJacDetStd", "sdlogj")
_KEYPOINTS = Method("TRE_kp", "tre", points="keypoints")


def _overlap(count: int, hd95: bool = True) -> tuple[Method, ...]:
    labels = tuple(range(1, count + 1))
    dice = (Method("DSC", "dice", labels),)
    return (*dice, Method("HD95", "hd95", labels)) if hd95 else dice


# A pyramid down to the images' own 1 mm: structures of 35 voxels have no 8 mm to speak of, and what
# is left after alignment by affine is a few millimetres.
_SMALL = {"levels.spacing_mm": [4.0, 2.0, 1.0], "start.search_mm": 8.0}
# Whole brains of two people at 1 mm, aligned: sulci differ by up to about a centimetre.
_BRAIN = {"levels.spacing_mm": [4.0, 2.0, 1.0], "start.search_mm": 12.0}

RULES: dict[str, TaskRules] = {
    "ThoraxCBCT": TaskRules(
        ("thorax",), (_SDLOGJ, _KEYPOINTS, *_overlap(1, hd95=False)), region_target="thorax13"
    ),
    "NLST": TaskRules(("lung", "thorax"), (_SDLOGJ, _KEYPOINTS), region_target="thorax13"),
    "LungCT": TaskRules(
        ("lung", "thorax"),
        (_SDLOGJ, Method("TRE_lm", "tre", points="landmarks"), _KEYPOINTS),
        masked=True,
        region_target="thorax13",
    ),
    "AbdomenCTCT": TaskRules(("abdomen", "general"), (_SDLOGJ, *_overlap(13))),
    "AbdomenMRCT": TaskRules(("abdomen", "general"), (_SDLOGJ, *_overlap(4)), masked=True),
    "HippocampusMR": TaskRules(
        ("hippocampus", "general"), (_SDLOGJ, *_overlap(2)), overrides=_SMALL
    ),
    "OASIS": TaskRules(("brain", "general"), (_SDLOGJ, *_overlap(35)), overrides=_BRAIN),
}
"""Methods and masks are those of the public configurations, VAL."""

OTHER = TaskRules(("general",), (_SDLOGJ,))
"""A task that is not in the table."""


def rules_of(task: Task) -> TaskRules:
    """The rules of a task; general ones where its name is not known."""
    return RULES.get(task.name, OTHER)


def preset_of(rules: TaskRules) -> tuple[str, dict[str, Any]]:
    """The preset for a task, and the overrides that a general one needs.

    Raises:
        ConfigError: none of the task's presets comes with this version.
    """
    known = preset_names()
    for name in rules.presets:
        if name in known:
            return name, dict(rules.overrides) if name == "general" else {}
    raise ConfigError(f"expected one of the presets {', '.join(rules.presets)}, none is there")


def evaluation_of(task: Task, config: Path | None = None) -> Evaluation:
    """What is to be measured: by the evaluator's own JSON, or by the task's rules.

    Args:
        task: whose; its choice of cases holds for the JSON's too.
        config: a ``*_evaluation_config.json`` as the evaluator takes it.

    Raises:
        ImageReadError, ConfigError: the JSON cannot be used.
    """
    if config is None:
        rules = rules_of(task)
        return Evaluation(rules.methods, task.shape_ijk, task.pairs, rules.masked)
    content = read_json(config)
    shape = content.get("expected_shape")
    if not isinstance(shape, list) or len(shape) != 4 or shape[-1] != 3:
        raise ConfigError(f"{config}: expected_shape: expected I, J, K, 3, got {shape!r:.60}")
    listed = content.get("eval_pairs") or []
    pairs = [pair_of(str(p.get("fixed")), str(p.get("moving")), config) for p in listed]
    chosen = {p.case for p in task.pairs}
    methods = tuple(_method(m, config) for m in content.get("evaluation_methods") or [])
    if len({m.name for m in methods}) != len(methods) or not methods:
        raise ConfigError(f"{config}: evaluation_methods: expected some, each name once")
    pairs = [p for p in pairs if p.case in chosen or not task.is_part]
    if not pairs:
        raise ConfigError(f"{config}: eval_pairs: expected the cases of {task.name}, got none")
    return Evaluation(
        methods,
        (int(shape[0]), int(shape[1]), int(shape[2])),
        tuple(pairs),
        bool(content.get("masked_evaluation", False)),
    )


def _method(entry: Mapping[str, Any], where: Path) -> Method:
    metric = entry.get("metric")
    if metric not in METRICS:
        raise ConfigError(f"{where}: expected a metric of {', '.join(METRICS)}, got {metric!r}")
    labels: Sequence[Any] = entry.get("labels") or ()
    return Method(
        str(entry.get("name", metric)),
        str(metric),
        tuple(int(v) for v in labels),
        str(entry.get("dest", "keypoints")),
    )
