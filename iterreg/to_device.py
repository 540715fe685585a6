"""Bring small tables to a device, without waiting for what it does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def on_device(values: Any, device: torch.device, kind: torch.dtype | None = None) -> Tensor:
    """A table on a device.

    A plain copy to a GPU first waits until all its work is done. This one queues: CUDA has taken
    the values when it returns, so the host's copy may go.

    Args:
        values: numbers, nested as the table is, or a tensor of the CPU.
        device: where the table is wanted.
        kind: type of the table; None takes that of the values.

    Example:
        >>> on_device([1, 2, 3], torch.device("cpu"), torch.float32)
        tensor([1., 2., 3.])
    """
    table = values.to(kind) if isinstance(values, Tensor) else torch.tensor(values, dtype=kind)
    return table.to(device, non_blocking=device.type == "cuda")
