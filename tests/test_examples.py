"""Examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import iterreg

PACKAGE = Path(iterreg.__file__).parent
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules_with_examples() -> list[str]:
    """Dotted names of the modules whose text holds an example."""
    files = (p for p in sorted(PACKAGE.rglob("*.py")) if ">>> " in p.read_text("utf-8"))
    return [".".join(("iterreg", *p.relative_to(PACKAGE).with_suffix("").parts)) for p in files]


@pytest.mark.parametrize("name", [n.removesuffix(".__init__") for n in modules_with_examples()])
def test_the_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    report: list[str] = []
    for example in examples:
        runner.run(example, out=report.append)
    assert runner.tries > 0, f"{name}: no example was found; is it in a docstring of this module?"
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", sorted(iterreg.__all__))
def test_every_public_name_has_an_example(name):
    text = getattr(iterreg, name).__doc__ or ""
    assert "Example:" in text and ">>> " in text.split("Example:", 1)[1]
