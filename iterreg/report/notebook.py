"""What a notebook shows of a registration: the verdict, the facts and the picture."""

from __future__ import annotations

import base64
from html import escape

from iterreg.displacement import total_displacement_mm
from iterreg.figures.shown import png_of
from iterreg.registration import Registration

COLOURS = {"ok": "#1a7f37", "doubtful": "#9a6700", "failed": "#cf222e"}


def registration_html(registration: Registration) -> str:
    """A registration as HTML that needs nothing else.

    Args:
        registration: the result.
    """
    verdict, labels = registration.verdict, registration.fixed_labels
    seconds = sum(registration.timings_s.values())
    regions = ", ".join(labels.title(value) for value in labels.values) or "none"
    rows = [
        ("fixed", f"{registration.fixed.name}: {registration.fixed.grid!r}"),
        ("moving", f"{registration.moving.name}: {registration.moving.grid!r}"),
        ("longest", f"{_longest_mm(registration):.3g} mm"),
        ("regions", regions),
        ("start", registration.start),
        ("took", f"{seconds:.1f} s on {registration.device}"),
        *(("", reason.words) for reason in verdict.reasons[1:]),
        *(("advice", advice) for advice in dict.fromkeys(r.advice for r in verdict.reasons)),
        *(("note", note) for note in registration.notes),
    ]
    cells = "".join(
        f"<tr><td style='text-align:left;vertical-align:top'>{escape(name)}</td>"
        f"<td style='text-align:left'>{escape(text)}</td></tr>"
        for name, text in rows
    )
    colour = COLOURS[verdict.status.value]
    return (
        f"<div><p style='color:{colour};font-weight:bold;margin:0.3em 0'>"
        f"iterreg: {escape(verdict.headline)}</p><table>{cells}</table>"
        f"{_picture(registration)}</div>"
    )


def _longest_mm(registration: Registration) -> float:
    """The longest total displacement."""
    total = total_displacement_mm(registration.transform)
    return float(total.square().sum(0).max().sqrt())


def _picture(registration: Registration) -> str:
    data = base64.b64encode(png_of(registration.plot())).decode("ascii")
    return (
        f"<img style='max-width:100%' alt='before, after and deformation' "
        f"src='data:image/png;base64,{data}'>"
    )
