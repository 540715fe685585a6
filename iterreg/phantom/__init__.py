"""Test pairs with a known field, made from one image: a digital phantom of anybody's own data."""

from __future__ import annotations

from iterreg.phantom.commands import make_command, use_commands
from iterreg.phantom.files import write_phantom
from iterreg.phantom.make import CONTRASTS, Phantom, make_phantom

__all__ = ["CONTRASTS", "Phantom", "make_command", "make_phantom", "use_commands", "write_phantom"]
