"""Write files so that they appear whole or not at all. Nothing here knows about images.

A file is completed in a hidden folder on the same disk, reaches the disk, and is then moved into
place, which the file system does in one step. A process that was killed leaves its hidden folder
behind; the next one that writes there recognises it and clears it away.
"""

from iterreg.atomic.files import last_line, write_aside, write_json, write_text
from iterreg.atomic.folder import OutputFolder
from iterreg.atomic.moves import completed_outputs, reach_disk
from iterreg.atomic.staging import (
    STAGING_PREFIX,
    clean_up,
    clear_stale,
    folder_lock,
    keep_journal,
    scratch_folder,
)

__all__ = [
    "STAGING_PREFIX",
    "OutputFolder",
    "clean_up",
    "clear_stale",
    "completed_outputs",
    "folder_lock",
    "keep_journal",
    "last_line",
    "reach_disk",
    "scratch_folder",
    "write_aside",
    "write_json",
    "write_text",
]
