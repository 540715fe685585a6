"""Rules by task: its preset, and the scores of its leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iterreg.config import preset_names
from iterreg.errors import ConfigError
from iterreg.learn2reg.task import Pair, Task, pair_of, read_json

METRICS = ("sdlogj", "dice", "hd95", "tre")
"""The evaluator's own names. What it calls ``sdlogj`` is ``sdlogj_l2r`` everywhere else."""


@dataclass(frozen=True)
class Method:
    """One score of a leaderboard.

    Args:
        name: the leaderboard's name of it.
        metric: one of :data:`METRICS`.
        labels: of dice and hd95.
        points: of tre: keypoints or landmarks.
    """

    name: str
    metric: str
    labels: tuple[int, ...] = ()
    points: str = "keypoints"


@dataclass(frozen=True)
class Evaluation:
    """The evaluator's configuration.

    Args:
        methods: the scores.
        shape_ijk: of a field, without its components; None if unknown.
        pairs: the cases.
        masked: whether SDlogJ is computed inside the fixed mask.
    """

    methods: tuple[Method, ...]
    shape_ijk: tuple[int, int, int] | None
    pairs: tuple[Pair, ...]
    masked: bool


@dataclass(frozen=True)
class TaskRules:
    """Rules of a task.

    Args:
        presets: in order of preference; the first that exists is used.
        overrides: changes of a general preset for this task's resolution.
        methods: as in the task's public configuration.
        masked: as in the task's public configuration.
        region_target: table of the classes that named structures are merged into, or empty.
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


# Levels down to the images' own 1 mm: structures of 35 voxels are too small for an 8 mm level, and
# after the affine alignment only a few millimetres of motion are left.
_SMALL = {"levels.spacing_mm": [4.0, 2.0, 1.0], "start.search_mm": 8.0}
# Brains of two people at 1 mm, aligned: sulci differ by up to about a centimetre.
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
"""Rules by task name. Methods and masks are those of the public validation configurations."""

OTHER = TaskRules(("general",), (_SDLOGJ,))
"""Rules of all other tasks."""


def rules_of(task: Task) -> TaskRules:
    """Return the rules of a task; general ones if its name is unknown."""
    return RULES.get(task.name, OTHER)


def preset_of(rules: TaskRules) -> tuple[str, dict[str, Any]]:
    """Choose the preset for a task, and the overrides that a general one needs.

    Raises:
        ConfigError: none of the task's presets exists.
    """
    known = preset_names()
    for name in rules.presets:
        if name in known:
            return name, dict(rules.overrides) if name == "general" else {}
    raise ConfigError(f"expected one of the presets {', '.join(rules.presets)}, got none of them")


def evaluation_of(task: Task, config: Path | None = None) -> Evaluation:
    """Make the evaluation of a task, from the evaluator's JSON or from the built-in rules.

    Args:
        task: if it has only some of the cases, only these are evaluated.
        config: the evaluator's ``*_evaluation_config.json``; None uses the rules.

    Raises:
        ImageReadError, ConfigError: the JSON cannot be used.
    """
    if config is None:
        rules = rules_of(task)
        return Evaluation(rules.methods, task.shape_ijk, task.pairs, rules.masked)
    content = read_json(config)
    shape: Any = content.get("expected_shape")
    if not (_are_whole(shape, 1) and len(shape) == 4 and shape[-1] == 3):
        raise ConfigError(f"{config}: expected_shape: expected I, J, K, 3, got {shape!r:.60}")
    pairs = [
        pair_of(str(p.get("fixed")), str(p.get("moving")), config)
        for p in _tables(content, "eval_pairs", config)
    ]
    chosen = {p.case for p in task.pairs}
    methods = tuple(_method(m, config) for m in _tables(content, "evaluation_methods", config))
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


def _are_whole(values: Any, least: int) -> bool:
    """Whether a value of a JSON file is a list of whole numbers, none below the least."""
    return isinstance(values, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and least <= v < 1 << 31 for v in values
    )


def _tables(content: Mapping[str, Any], key: str, where: Path) -> list[Mapping[str, Any]]:
    """The objects in a list of a JSON file."""
    listed = content.get(key) or []
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) for entry in listed):
        raise ConfigError(f"{where}: {key}: expected a list of objects, got {listed!r:.60}")
    return listed


def _method(entry: Mapping[str, Any], where: Path) -> Method:
    metric = entry.get("metric")
    if not isinstance(metric, str) or metric not in METRICS:
        raise ConfigError(f"{where}: expected a metric of {', '.join(METRICS)}, got {metric!r:.60}")
    given = entry.get("labels") or []
    texts = [str(v) for v in given] if isinstance(given, list) else [""]
    if not all(t.isascii() and t.isdigit() and len(t) < 10 for t in texts):
        raise ConfigError(f"{where}: labels: expected whole numbers, got {given!r:.60}")
    return Method(
        str(entry.get("name", metric)),
        str(metric),
        tuple(map(int, texts)),
        str(entry.get("dest", "keypoints")),
    )
