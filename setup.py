"""Lets tools that look for setup.py build iterreg. Metadata is in setup.cfg."""

from setuptools import setup

setup()
