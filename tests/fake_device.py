"""Tensors that say they are on a CUDA device that is not there, and what happens to them.

A :class:`Device` tensor says that it is on ``cuda:0`` and keeps its values on the CPU. Every
operator is run on those values; launches, bytes, waits of the host and operators that mix devices
are counted by the caller's line.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)

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
        launches, bytes, waits, mixes: by the line of the project that asked for them. Bytes are
            those that a launch reads and writes, each once. A copy between host and device is a
            launch for which the host waits.
    """

    launches: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    mixes: Counter[str] = field(default_factory=Counter)

    def launched(self, size: int, crosses: bool = False) -> None:
        """Something runs on the device, which reads and writes so many bytes.

        Args:
            size: in bytes.
            crosses: whether it is a copy between host and device.
        """
        where = caller()
        self.launches[where] += 1
        self.bytes[where] += size

    def waited(self) -> None:
        """The host waits until the device has done its work."""
        self.waits[caller()] += 1

    def mixed(self, what: str) -> None:
        """Something of the host is given to the device, which would refuse it."""
        self.mixes[f"{what} at {caller()}"] += 1

    def clear(self) -> None:
        """Start again."""
        for counter in (self.launches, self.bytes, self.waits, self.mixes):
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
        Device.counts.waited()
        return self.values.tolist()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_lists_copied(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_lists_copied(index), value)

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
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/iterreg/" in path and "site-packages" not in path:
            return f"{path.rsplit('/iterreg/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "the test"


def _lists_copied(index: Any) -> Any:
    """An index whose lists are tensors of the device, for which the host waits."""
    if not isinstance(index, tuple):
        return _lists_copied((index,))[0]
    return tuple(
        torch.tensor(part).to("cuda") if isinstance(part, list) else part for part in index
    )


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of a tensor in memory; what is expanded lies there once."""
    count = 1
    for n, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= n if stride else min(n, 1)
    return count * tensor.element_size()


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
    inputs, named = tree_map(bare, args), tree_map(bare, dict(kwargs))
    if wanted is not None:
        named["device"] = "cpu"
    leaves = name == "_to_copy" and wanted is not None and wanted.type == "cpu"
    hosts = any(x.dim() > 0 for x in others)
    crosses = leaves or (name in ("copy_", "_to_copy") and bool(others))
    queued = bool(others) and (named.get("non_blocking", False) or True in args[2:3])
    if hosts and not crosses:
        counts.mixed(name)
    # Below autograd nothing looks at the mark of a conjugate, so it is made.
    found = inputs[0].conj_physical() if name == "_conj" else operator(*inputs, **named)
    if name not in NO_LAUNCH:
        made, _ = tree_flatten(found)
        size = sum(bytes_of(x) for x in (*ours, *made) if isinstance(x, torch.Tensor))
        counts.launched(size, crosses)
    if name in WAITS or (crosses and not queued) or _has_mask(name, args):
        counts.waited()
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
