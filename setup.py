"""Lets tools that look for setup.py build iterreg; pyproject.toml and setup.cfg describe it."""

from setuptools import setup

setup()
