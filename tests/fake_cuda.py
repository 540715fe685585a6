"""A CUDA device that is not there: the project's real code runs on it, and is counted.

A :class:`Device` tensor says that it is on ``cuda:0`` and keeps its values on the CPU. Every
operator is run on those values; launches, host synchronisations and operators that mix devices are
counted by the caller's line. Triton's programs run in its interpreter, in one block each.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
ONE_BLOCK = 1 << 15

NO_LAUNCH = {
    "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "diagonal", "empty",
    "empty_like", "empty_strided", "expand", "lift_fresh", "new_empty", "new_empty_strided",
    "permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view",
}  # fmt: skip
"""Operators that make a view or take memory."""

WAITS = {
    "_local_scalar_dense", "_unique2", "bincount", "equal", "is_nonzero", "masked_select",
    "nonzero", "unique_consecutive", "unique_dim",
}  # fmt: skip
"""Operators whose answer, or its size, the host has to wait for."""


@dataclass
class Counts:
    """What was counted.

    Args:
        launches, waits, mixes: by the line of the project that asked for them.
    """

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    mixes: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Start again."""
        for counter in (self.launches, self.waits, self.mixes):
            counter.clear()


class Device(torch.Tensor):
    """A tensor that says it is on the device.

    Args:
        values: on the CPU.
    """

    values: torch.Tensor
    counts = Counts()

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> Device:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=CUDA,
        )
        made.values = values
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None):
        return run(operator, args, kwargs or {})

    def tolist(self) -> Any:
        """Wait for the values."""
        Device.counts.waits[caller()] += 1
        return self.values.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, as torch does."""
        raise TypeError("can't convert a CUDA tensor to NumPy")

    __array__ = numpy


class Mode(TorchDispatchMode):
    """Sends what is made on the device to :func:`run`."""

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None):
        return run(operator, args, kwargs or {})


def caller() -> str:
    """The line of the project that is running."""
    for frame in reversed(traceback.extract_stack(limit=40)):
        if "/iterreg/" in frame.filename and "site-packages" not in frame.filename:
            return f"{frame.filename.rsplit('/iterreg/', 1)[1]}:{frame.lineno}"
    return "the test"


def bare(value: Any) -> Any:
    """The values of a device tensor; anything else as it is."""
    return value.values if isinstance(value, Device) else value


def run(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operator on the values, and count it."""
    flat, _ = tree_flatten((args, kwargs))
    ours = [x for x in flat if isinstance(x, Device)]
    others = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, Device)]
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted)
    if not ours and (wanted is None or wanted.type != "cuda"):
        return operator(*args, **kwargs)
    name, counts = operator._schema.name.split("::")[1], Device.counts
    copies = name in ("copy_", "_to_copy")
    inputs, named = tree_map(bare, args), tree_map(bare, dict(kwargs))
    if wanted is not None:
        named["device"] = "cpu"
    leaves = name == "_to_copy" and wanted is not None and wanted.type == "cpu"
    if not copies and any(x.dim() > 0 for x in others):
        counts.mixes[f"{name} at {caller()}"] += 1
    if name in WAITS or leaves or _has_mask(name, args):
        counts.waits[caller()] += 1
    if name not in NO_LAUNCH:
        counts.launches[caller()] += 1
    found = operator(*inputs, **named)
    if leaves or name == "_local_scalar_dense":
        return found
    if name.endswith("_") and isinstance(args[0], Device):
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    return tree_map(lambda x: Device(x) if isinstance(x, torch.Tensor) else x, found)


def _has_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an index is a mask, whose size the host has to wait for."""
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in args[1])


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    """A device ``cuda`` while the block runs; what happens on it."""
    from iterreg.kernels import cuda
    from iterreg.kernels.cuda import solving, unfolding

    def launch(program: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        Device.counts.launches[caller()] += 1
        constants.pop("num_warps", None)
        program[grid](*[bare(x) for x in args], **constants)

    for module in (cuda, solving, unfolding):
        monkeypatch.setattr(module, "launch", launch)
        monkeypatch.setattr(module, "BLOCK", ONE_BLOCK)
        monkeypatch.setattr(
            module, "grid_of", lambda count, block=ONE_BLOCK: (max(1, -(-count // block)),)
        )
    monkeypatch.setattr(cuda, "TILE", ONE_BLOCK)
    monkeypatch.setattr(torch, "tensor", _made(torch.tensor))
    monkeypatch.setattr(torch.Tensor, "new_tensor", _new_tensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *args: None)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    torch._C._ensureCUDADeviceGuardSet()
    Device.counts.clear()
    with Mode():
        yield Device.counts


def _made(real: Any) -> Any:
    """``torch.tensor``, which makes nothing on a device that is not there."""

    def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        found: torch.Tensor = real(data, *args, **kwargs)
        return found if device is None else found.to(device)

    return tensor


def _new_tensor(self: torch.Tensor, data: Any, dtype: Any = None) -> torch.Tensor:
    found = torch.tensor(data, dtype=dtype or self.dtype)
    return found.to(self.device)
