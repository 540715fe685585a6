"""A peer's program on a pair of ``accuracy.py``, by images alone."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from pathlib import Path

import iterreg
from iterreg import Image, Transform

PROGRAMS = Path(__file__).parent / "_peers"
ALIGNED = ("cardiac", "thorax", "lung", "abdomen")
"""Presets of one person in two phases: a peer needs no affine step."""


def peer_of(given: str) -> tuple[str, str]:
    """The method and its Python, from ``METHOD=PYTHON``."""
    method, _, python = given.partition("=")
    if not python or not (PROGRAMS / f"run_{method}.py").is_file():
        known = sorted(f.stem.removeprefix("run_") for f in PROGRAMS.glob("run_*.py"))
        raise SystemExit(f"--peer: expected METHOD=PYTHON with one of {', '.join(known)}")
    return method, python


def run_peer(
    peer: tuple[str, str], pair: tuple[Image, Image], preset: str, threads: int
) -> tuple[Transform | None, str, float]:
    """Register a pair with a peer at its authors' settings.

    Args:
        peer: the method and its Python.
        pair: fixed and moving.
        preset: iterreg's for such a pair; it tells whether an affine step is needed.
        threads: of the peer.

    Returns:
        The total transform, None where it fails; its last words; its CPU seconds, start included.
    """
    method, python = peer
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "field.mha"
        command = [python, str(PROGRAMS / f"run_{method}.py"), "--preset", preset]
        command += ["--threads", str(threads), "--out", str(out)]
        command += ["--aligned"] if preset in ALIGNED else []
        for side, image in zip(("fixed", "moving"), pair, strict=True):
            iterreg.write_image(image, Path(scratch) / f"{side}.nii.gz")
            command += [f"--{side}", str(Path(scratch) / f"{side}.nii.gz")]
        limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")}
        limits["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
        begun = _children_cpu_s()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | limits)
        cpu_s = _children_cpu_s() - begun
        said = (done.stderr or done.stdout).strip().splitlines()
        if done.returncode or not out.is_file():
            return None, said[-1] if said else "failed", cpu_s
        return iterreg.read_transform(out), "", cpu_s


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
