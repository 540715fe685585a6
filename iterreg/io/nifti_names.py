"""Names of labels in an extension of a NIfTI header, as TotalSegmentator writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from iterreg.io.nifti_header import NiftiHeader
from iterreg.texts import without_controls

MOST_EXTENSION_BYTES = 1 << 24
"""A longer extension holds no names."""

# Every part has a longest length, so that the time is proportional to the text.
_LABEL = re.compile(
    r'<Label\s{1,9}Key="(\d{1,9})"[^>]{0,300}>\s{0,99}<!\[CDATA\[([^\]]{0,300})\]\]>\s{0,99}</Label>'
)


def label_names(header: NiftiHeader, content: bytes | bytearray) -> dict[int, str]:
    """Read the names of labels, by number; empty if there are none.

    Args:
        header: of the file.
        content: the file up to its voxels or further.
    """
    for extension in _extensions(header, content):
        text = extension.decode("utf-8", "replace")
        found = {int(number): without_controls(name) for number, name in _LABEL.findall(text)}
        found.pop(0, None)
        if found:
            return {number: name for number, name in found.items() if name}
    return {}


def _extensions(header: NiftiHeader, content: bytes | bytearray) -> Iterator[bytes]:
    """The content of each extension between the header and the voxels."""
    size = int(header.fields["sizeof_hdr"])
    order: Literal["big", "little"] = "big" if header.fields.endianness == ">" else "little"
    if header.start <= size + 4 or content[size] == 0:
        return
    place = size + 4
    while place + 8 <= min(header.start, len(content)):
        length = int.from_bytes(content[place : place + 4], order, signed=True)
        if length < 8 or place + length > header.start:
            return
        if length <= MOST_EXTENSION_BYTES:
            yield bytes(content[place + 8 : place + length])
        place += length
