"""One page, ``report.html``, that shows how far a result can be trusted and why.

It is a single file without links to anything else. The sections follow the order in which a
physicist asks: verdict, position of the images, slices, regions, energy, field, tests, provenance.

    source    where the page comes from        page        fills the template
    verdict   space  regions  curves  field  checks  provenance     one section each
    slices    cuts the slices                  layers      what they hold, in 8 bits
    sprites   packs them into the page
    template/ the page, its style, and the viewer (plain JavaScript)
"""

from __future__ import annotations

from iterreg.report.page import write_report
from iterreg.report.source import (
    ODD_VALUES,
    Source,
    read_expected_error,
    read_folder,
    scanner_of_run,
)

__all__ = [
    "ODD_VALUES",
    "Source",
    "read_expected_error",
    "read_folder",
    "scanner_of_run",
    "write_report",
]
