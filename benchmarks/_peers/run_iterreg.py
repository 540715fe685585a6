"""iterreg: the pair's preset as it is, and nothing else."""

from __future__ import annotations

import json

from common import Request, request

from iterreg import LabelMap, optimize_pair, preset_names, read_label_map
from iterreg.io import write_displacement_mm


def main() -> None:
    """Register and write the field, and what was said about the run."""
    asked = request()
    preset = asked.preset if asked.preset in preset_names() else "general"
    fixed_labels, moving_labels = named_labels(asked)
    registration = optimize_pair(
        asked.fixed,
        asked.moving,
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        preset=preset,
        threads=asked.threads,
        device="cpu",
    )
    write_displacement_mm(registration.transform, asked.out)
    about = {
        "preset": preset,
        "status": registration.status.name,
        "start": registration.start,
        "stages_s": registration.timings_s,
    }
    asked.out.with_suffix(".json").write_text(json.dumps(about))


def named_labels(asked: Request) -> tuple[LabelMap | None, LabelMap | None]:
    """The label maps, with the names that lie beside them: they say what slides."""
    if asked.labels is None:
        return None, None
    path = asked.labels[0].with_name("names.json")
    names = json.loads(path.read_text()) if path.is_file() else {}
    known = {int(value): name for value, name in names.items()}
    fixed, moving = (read_label_map(labels, known) for labels in asked.labels)
    return fixed, moving


if __name__ == "__main__":
    main()
