"""Fill a template: one HTML file that needs nothing else, with its style and its script inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import partial
from importlib import resources
from typing import Any

from iterreg.versions import import_package

SHARED = "iterreg.report"
"""The package whose ``page.css`` and ``head.html`` all pages share."""

HEAD = "head.html"


def render(package: str, name: str, facts: Mapping[str, Any], script: str = "") -> str:
    """Render ``template/NAME.html`` of a package.

    Args:
        package: dotted name.
        name: of the page; its own style is ``NAME.css``, behind the shared one.
        facts: what the template shows.
        script: file of its script; empty: ``NAME.js``.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    jinja2 = import_package("jinja2", f"{name}.html", "pip install jinja2")
    own = partial(_read, package)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda file: _read(SHARED, file) if file == HEAD else own(file)
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    code = own(script or f"{name}.js")
    # The browser runs this script and no other, so text from files cannot become code.
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    style = _read(SHARED, "page.css") + ("" if package == SHARED else own(f"{name}.css"))
    page: str = environment.get_template(f"{name}.html").render(
        **facts, style=style, script=code, script_hash=digest
    )
    return page


def _read(package: str, name: str) -> str:
    return resources.files(package).joinpath("template", name).read_text("utf-8")
