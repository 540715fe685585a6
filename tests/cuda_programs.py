"""Compile every Triton program for real GPUs, without one: a line of JSON for each.

    python tests/cuda_programs.py [--ones] [PART OF A NAME]

Run apart from pytest: there, without a GPU, Triton's interpreter stands in for the compiler. Each
line has the program, the architecture (80 or 90), what its sizes are, and what the assembler says
of its registers and of the bytes that it spills. Triton compiles a size of 1 as a constant: with
``--ones`` each size is tried as 1 too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from iterreg.kernels.cuda.launch import BLOCK, CHANNELS, SUMMED, TILE
from iterreg.kernels.cuda.programs import features, fields, folds, linear_algebra, sampling

ASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
KINDS = {
    "f": "*fp32",
    "h": "*fp16",
    "d": "*fp64",
    "i": "*i32",
    "l": "*i64",
    "b": "*i8",
    "n": "i32",
    "s": "fp32",
}
"""A letter for the type of each argument; n is a size and s a scalar."""


class Program(NamedTuple):
    """A program, the letters of its arguments, its constants."""

    function: Any
    arguments: str
    constants: dict[str, Any]
    title: str = ""
    warps: int = 4


def programs() -> Iterator[Program]:
    """Every program, as the backend launches it."""
    wide, narrow = {"C": 24, "CP": CHANNELS, "WIDE": False, "B": 64}, {"C": 1, "CP": 1}
    narrow |= {"WIDE": False, "B": 128}
    block = {"B": BLOCK}
    table = {"HAS_TABLE": True, "B": BLOCK}
    pairs = {"P": 12, "PP": 16, "B": TILE // 16}
    widths = {"WZ": 3, "WY": 3, "WX": 3}
    yield Program(linear_algebra.add_laplacian, "fffdnnnn", block)
    yield Program(linear_algebra.add_normal_jump, "fllffdnn", block)
    yield Program(linear_algebra.invert_blocks, "ffifnnnnss", block)
    yield Program(linear_algebra.correct_at_interfaces, "ffilffnnnnnss", block)
    yield Program(linear_algebra.cg_product, "fffffffdnnnn", block)
    yield Program(linear_algebra.cg_update, "fffffffdn", block)
    yield Program(linear_algebra.cg_alpha, "dnf", {"B": SUMMED}, warps=8)
    yield Program(linear_algebra.cg_beta, "dnf", {"B": SUMMED}, warps=8)
    yield Program(sampling.squared_difference, "ffifffffffdsnnnnnnn", wide, "24 of float32")
    yield Program(sampling.squared_difference, "hhifffffffdsnnnnnnn", wide, "24 of float16")
    yield Program(sampling.squared_difference, "ffifffffffdsnnnnnnn", narrow, "1")
    yield Program(sampling.squared_differences, "liiffflifffffdnnnn", block)
    yield Program(sampling.squared_residuals, "liifffliffflfnnnn", block)
    yield Program(fields.upsample, "fiiffffnnnnnnnn", {"C": 3, "B": BLOCK})
    yield Program(features.patch_distances, "fllffdnnnn", pairs | widths)
    yield Program(features.exponentiate, "ffdnss", pairs)
    yield Program(features.cost_volume, "fflllfnnnnnn", {"C": 12, "CP": 16, "B": TILE // 16})
    yield Program(features.cheapest, "ffflsn", {"B": TILE})
    yield Program(features.nearest_along, "fflnsnn", block)
    yield Program(features.block_majority, "iifififinnnnnnnnn", block)
    near = {"RY": 2, "RX": 2, "B": BLOCK}
    yield Program(features.region_slope, "ilffnnnns", {"RZ": 2} | near, "volume")
    yield Program(features.region_slope, "ilffnnnns", {"RZ": 0} | near, "picture")
    yield Program(folds.folding_voxels, "fbnnnn", {"INNER": True, "B": BLOCK})
    yield Program(folds.low_simplices, "lfibfifbsnnnnnn", table)
    yield Program(folds.simplex_moves, "lfibfbiffsssnnnnnn", table | {"HAS_STILL": True})
    yield Program(folds.apply_moves, "lififsnnnnn", {"SLOTS": 40, "B": BLOCK})
    yield Program(folds.mark_around, "lbnnnnn", block)


def compiled(program: Program, architecture: int, ones: set[str]) -> dict[str, Any]:
    """Compile a program, some of whose sizes are 1; what the assembler says of it."""
    names = program.function.arg_names
    letters, constants = iter(program.arguments), {**program.constants, **dict.fromkeys(ones, 1)}
    kinds = {n: None if n in program.constants else KINDS[next(letters)] for n in names}
    signature = {n: "constexpr" if n in constants else kind for n, kind in kinds.items()}
    places = {(names.index(n),): value for n, value in constants.items()}
    aligned = {
        (k,): [["tt.divisibility", 16]] for k, n in enumerate(names) if signature[n][0] == "*"
    }
    source = ASTSource(program.function, signature=signature, constexprs=places, attrs=aligned)
    target = GPUTarget("cuda", architecture, 32)
    found = triton.compile(source, target=target, options={"num_warps": program.warps})
    return assembled(found.asm["ptx"], architecture)


def assembled(text: str, architecture: int) -> dict[str, Any]:
    """Registers and spilled bytes, as the assembler prints them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.ptx"
        path.write_text(text)
        kind = f"sm_{architecture}" + ("a" if architecture == 90 else "")
        command = [str(ASSEMBLER), "-v", f"-arch={kind}", str(path), "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill", said)]
    registers = re.search(r"Used (\d+) registers", said)
    assert registers is not None, said
    return {"spilled": sum(spilled), "registers": int(registers[1])}


def sizes_of(program: Program) -> list[str]:
    """The names of a program's sizes that may be compiled as a constant."""
    names = [n for n in program.function.arg_names if n not in program.constants]
    letters = zip(names, program.arguments, strict=True)
    kept = {p.name for p in program.function.params if p.do_not_specialize}
    return [n for n, letter in letters if letter == "n" and n not in kept]


def main() -> None:
    """Compile all, or those whose name contains the argument."""
    wanted = next((word for word in sys.argv[1:] if word != "--ones"), "")
    ones = "--ones" in sys.argv
    for program in programs():
        name = program.function.fn.__name__
        if wanted not in name:
            continue
        tries: list[tuple[int, set[str]]] = [(80, set()), (90, set())]
        tries += [(90, {size}) for size in sizes_of(program)] if ones else []
        for architecture, constant in tries:
            row = {"program": f"{name} {program.title}".strip(), "architecture": architecture}
            row["ones"] = sorted(constant)
            print(json.dumps(row | compiled(program, architecture, constant)), flush=True)


if __name__ == "__main__":
    main()
