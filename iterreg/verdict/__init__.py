"""The verdict on a result: ok, doubtful or failed, with reasons, figures, limits and advice.

The energy did not minimise the evidence (:mod:`iterreg.optimize.evidence`). Presets have limits.
"""

from iterreg.verdict.evidence import Evidence
from iterreg.verdict.judge import judge
from iterreg.verdict.types import Kind, Reason, Status, Verdict

__all__ = ["Evidence", "Kind", "Reason", "Status", "Verdict", "judge"]
