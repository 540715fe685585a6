"""A CUDA device that is not there: the project's real code runs on it, and is counted.

Triton's programs run in its interpreter, in one block each; or else they are counted and the
kernels of the CPU find the values, a hundred times as fast.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_device import Counts, Device, Mode, bare, bytes_of
from torch.utils._pytree import tree_map

ONE_BLOCK, ONE_TILE = 1 << 12, 1 << 15

PROGRAMS = tuple(f"iterreg.kernels.cuda{name}" for name in ("", ".solving", ".unfolding"))
"""The modules that launch programs."""


@contextmanager
def fake_cuda(
    monkeypatch: pytest.MonkeyPatch, interpreted: bool = True, counts: Counts | None = None
) -> Iterator[Counts]:
    """A device ``cuda`` while the block runs; what happens on it.

    Args:
        monkeypatch: undone by the caller.
        interpreted: whether Triton's interpreter runs the programs.
        counts: where to count.
    """
    for module in map(importlib.import_module, PROGRAMS):
        monkeypatch.setattr(module, "launch", _interpreted if interpreted else _counted)
        if interpreted:
            monkeypatch.setattr(module, "BLOCK", ONE_BLOCK)
            monkeypatch.setattr(
                module, "grid_of", lambda count, block=ONE_BLOCK: (max(1, -(-count // block)),)
            )
    if interpreted:
        monkeypatch.setattr(PROGRAMS[0] + ".TILE", ONE_TILE)
    else:
        monkeypatch.setattr("iterreg.kernels._backend", _backend)
    monkeypatch.setattr(torch, "tensor", _made(torch.tensor))
    monkeypatch.setattr(torch.Tensor, "new_tensor", _new_tensor)
    monkeypatch.setattr(torch.autograd, "grad", _gradient)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: Device.counts.waited())
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(Device, "counts", counts or Counts())
    torch._C._ensureCUDADeviceGuardSet()
    with Mode():
        yield Device.counts


def _interpreted(program: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Count a program, and run it."""
    _counted(program, grid, *args)
    constants.pop("num_warps", None)
    program[grid](*[bare(x) for x in args], **constants)


def _counted(program: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Count a program."""
    given = dict(zip(program.arg_names, args, strict=False))
    tensors = {name: x for name, x in given.items() if isinstance(x, torch.Tensor)}
    if any(not isinstance(x, Device) for x in tensors.values()):
        Device.counts.mixed(program.fn.__name__)
    passes = _passes(program)
    Device.counts.launched(sum(passes[name] * bytes_of(x) for name, x in tensors.items()))


@cache
def _passes(program: Any) -> dict[str, int]:
    """How often a program goes through each argument: 2 for one that it reads and writes."""
    read, written = _uses(program)
    return {name: (name in read) + (name in written) for name in program.arg_names}


def _uses(program: Any) -> tuple[set[str], set[str]]:
    """The arguments that a program reads, and those that it writes."""
    tree = ast.parse(inspect.getsource(program.fn))
    behind: dict[str, set[str]] = {name: {name} for name in program.arg_names}

    def arguments(*parts: ast.AST) -> set[str]:
        names = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
        return set().union(*(behind.get(name, set()) for name in names))

    for node in ast.walk(tree):  # such as: own = curvature + n
        for name, made in _assigned(node):
            if isinstance(name, ast.Name) and not isinstance(made, ast.Call):
                behind.setdefault(name.id, set()).update(arguments(made))
    read: set[str] = set()
    written: set[str] = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = program.fn.__globals__.get(ast.unparse(call.func))
        if hasattr(called, "arg_names"):
            uses = _uses(called)
            for name, given in zip(called.arg_names, call.args, strict=False):
                read |= arguments(given) if name in uses[0] else set()
                written |= arguments(given) if name in uses[1] else set()
        elif ast.unparse(call.func) == "tl.store":
            written |= arguments(call.args[0])
        else:
            read |= arguments(*call.args)
    return read, written


def _assigned(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    """The names that a statement gives values, with those values."""
    if not isinstance(node, ast.Assign):
        return []
    target, value = node.targets[0], node.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


def _backend(device: torch.device) -> Any:
    """The kernels of a device; those of the GPU are counted, and the CPU finds the values."""
    from iterreg.kernels import cpu, cuda, reference

    if device.type != "cuda":
        return cpu
    kernels = {name: getattr(cuda, name) for name in reference.__all__}
    for name, kernel in kernels.items():
        if kernel is not getattr(reference, name):
            kernels[name] = _both(kernel, getattr(cpu, name))
    return SimpleNamespace(**kernels)


def _both(counted: Callable[..., Any], finds: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that launches as the first one does, and returns what the second one finds."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given = [_spare(x) for x in args]
        counted(*given, **{k: _spare(v) for k, v in kwargs.items()})
        found = finds(*[_on_cpu(x) for x in args], **{k: _on_cpu(v) for k, v in kwargs.items()})
        return tree_map(lambda x: Device(x) if isinstance(x, torch.Tensor) else x, found)

    return call


def _spare(value: Any) -> Any:
    """What a kernel may overwrite while it is counted."""
    from iterreg.kernels import Workspace

    return Workspace() if isinstance(value, Workspace) else value


def _on_cpu(value: Any) -> Any:
    """A value with all tensors in it on the CPU, where they share their memory."""
    if isinstance(value, Device):
        return value.values.float() if value.dtype == torch.float16 else value.values
    if isinstance(value, tuple | list):
        return type(value)(map(_on_cpu, value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    if "_on_cpu" not in vars(value):  # made once: samples are joined on first use, and kept
        fields = {f.name: _on_cpu(getattr(value, f.name)) for f in dataclasses.fields(value)}
        object.__setattr__(value, "_on_cpu", dataclasses.replace(value, **fields))
    return vars(value)["_on_cpu"]


def _gradient(output: torch.Tensor, leaf: torch.Tensor) -> tuple[torch.Tensor]:
    """``torch.autograd.grad``, node by node: torch's own engine asks the device's driver."""
    order: dict[Any, None] = {}

    def visit(node: Any) -> None:
        if node is not None and node not in order:
            for following, _ in node.next_functions:
                visit(following)
            order[node] = None

    visit(output.grad_fn)
    given: dict[Any, dict[int, torch.Tensor]] = {output.grad_fn: {0: torch.ones_like(output)}}
    for node in reversed(order):
        slopes = given.get(node, {})
        if hasattr(node, "variable"):
            assert node.variable is leaf
            return (slopes[0],)
        found = node(*[slopes.get(k) for k in range(len(node._input_metadata))])
        found = found if isinstance(found, tuple) else (found,)
        for (following, place), slope in zip(node.next_functions, found, strict=True):
            if following is not None and slope is not None:
                sums = given.setdefault(following, {})
                sums[place] = sums[place] + slope if place in sums else slope
    raise RuntimeError("the output does not depend on the leaf")


def _made(real: Any) -> Any:
    """``torch.tensor``, which makes nothing on a device that is not there."""

    def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        found: torch.Tensor = real(data, *args, **kwargs)
        return found if device is None else found.to(device)

    return tensor


def _new_tensor(self: torch.Tensor, data: Any, dtype: Any = None) -> torch.Tensor:
    found = torch.tensor(data, dtype=dtype or self.dtype)
    return found.to(self.device)
