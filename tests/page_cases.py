"""Cohorts whose records are made up, to look at pages of any length."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from iterreg.cohort.cases import Case, Settings
from iterreg.cohort.evidence import headline_figures
from iterreg.cohort.plan import Plan, open_folder
from iterreg.cohort.records import write_failure

VERDICTS = ("ok", "ok", "ok", "doubtful", "failed", None)


def make_cohort(folder: Path, count: int, reason: str = "the images do not look alike") -> Plan:
    """Make a cohort of so many cases, with a picture each and all kinds of endings."""
    files = {"fixed": "/data/fixed.nii.gz", "moving": "/data/moving.nii.gz"}
    cases = tuple(Case(f"case{k:04d}", files, "general") for k in range(count))
    plan = Plan(cases, Settings(str(folder)))
    open_folder(plan)
    random = np.random.default_rng(0)
    for number, case in enumerate(cases):
        verdict = VERDICTS[number % len(VERDICTS)]
        if verdict is None:
            write_failure(folder, case.id, {"reason": reason, "exit_code": 3, "date": ""})
            continue
        place = folder / "cases" / case.id
        place.mkdir()
        noise = random.normal(128, 40, (24, 24)).clip(0, 255).astype(np.uint8)
        picture = io.BytesIO()
        Picture.fromarray(noise).resize((120, 120)).convert("RGB").save(picture, "JPEG")
        (place / "thumbnail.jpg").write_bytes(picture.getvalue())
        (place / "report.html").write_text("<p>report")
        figures = {name: round(float(random.random()), 4) for name in headline_figures({})}
        record = {
            "schema": 1,
            "made_from": "",
            "verdict": verdict,
            "exit_code": 0,
            "reasons": [] if verdict == "ok" else [reason],
            "worst": {"name": "similarity ncc", "ratio": float(random.random())},
            "figures": figures,
            "seconds": 5.0,
            "files": {},
        }
        (place / "case.json").write_text(json.dumps(record))
    return plan
