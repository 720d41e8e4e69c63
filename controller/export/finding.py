"""One thing that was looked at before a build: what was found, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

from shared.errors import ExportError

Verdict = Literal["ok", "warned", "refused"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of ``fleetctl model check``."""

    what: str
    found: str
    verdict: Verdict = "ok"
    remedy: str = ""


class RefusedFindingError(ExportError):
    """Something that no build can succeed with; its text is what was found, and the remedy."""

    def __init__(self, found: str, remedy: str) -> None:
        """Keep both parts: a table shows them apart."""
        super().__init__(f"{found}: {remedy}")
        self.found = found
        self.remedy = remedy


def refusal(what: str, error: ExportError) -> Finding:
    """Return the finding of an error."""
    if isinstance(error, RefusedFindingError):
        return Finding(what, error.found, "refused", error.remedy)
    return Finding(what, str(error), "refused")
