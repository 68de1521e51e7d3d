"""Reports: one HTML page that says what was found, why, and what it rests on.

The answer comes first, then the reasons, then the alternatives and their figures, last the
assumptions and how to make it again. The page is a single file: no network, no scripts, figures
inline, the numbers once more as JSON. It prints, follows the reader's light or dark setting, and
every figure has words beside it.
"""

from llmq.report._calibration import calibration_report, write_calibration
from llmq.report._file import check_writable
from llmq.report._plan import plan_report, write_report

__all__ = [
    "calibration_report",
    "check_writable",
    "plan_report",
    "write_calibration",
    "write_report",
]
