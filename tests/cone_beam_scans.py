"""The simulated cone-beam scans of the tests, and the scanners that their views come from."""

from __future__ import annotations

from pathlib import Path

from iterreg import ConeBeam

SCANS = Path(__file__).parent / "data" / "simulated_cbct"
PIXEL_MM = 1.55
SCANNERS = {
    "half_fan": ConeBeam(1000.0, 1500.0, 256 * PIXEL_MM, 192 * PIXEL_MM, -148.0),
    "short_panel": ConeBeam(1000.0, 1500.0, 256 * PIXEL_MM, 120 * PIXEL_MM),
}
