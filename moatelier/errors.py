"""One error tree. Each error has a stable code and says what was wrong, where, and what to do.

Foreign errors are translated once, at the edge where they arise. The API turns an error into the OpenAI envelope with
`status`; the command line prints `str(error)` and exits with 1; a job writes `to_dict()` to its folder and its worker
raises the same class again with `from_dict`.
"""

from typing import Any, ClassVar


class MoatelierError(Exception):
    """Base of all errors that Moatelier raises on purpose.

    Args:
        what: What was wrong, in one sentence.
        where: The row, field, file or id it was wrong at ("" when there is no such place).
        remedy: What the reader can do about it.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        place = f" (at {self.where})" if self.where else ""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.what}{place}{remedy}"

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON, for a job's folder, the event log and the API."""
        return {"code": self.code, "what": self.what, "where": self.where, "remedy": self.remedy}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "MoatelierError":
        """The error that `to_dict` wrote, of its own class; an unknown code becomes a `MoatelierError`."""
        kind = _by_code(MoatelierError).get(str(data.get("code")), MoatelierError)
        return kind(str(data.get("what", "")), where=str(data.get("where", "")), remedy=str(data.get("remedy", "")))


def _by_code(root: type[MoatelierError]) -> dict[str, type[MoatelierError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _by_code(child)
    return found


class InvalidRequest(MoatelierError):
    """What the caller sent cannot be understood or carried out as it is."""

    code, status = "invalid_request", 400


class DataError(InvalidRequest):
    """The user's data cannot be used; `where` names file, row and field."""

    code = "data_error"


class NotFound(MoatelierError):
    """No such task, file, model, adapter or thread in this project."""

    code, status = "not_found", 404


class Unauthorized(MoatelierError):
    """The key is missing, wrong or revoked."""

    code, status = "unauthorized", 401


class Forbidden(MoatelierError):
    """The key is good, and does not open this."""

    code, status = "forbidden", 403


class TooLarge(MoatelierError):
    """The request's body has more bytes than it may have here."""

    code, status = "request_too_large", 413


class TooSlow(MoatelierError):
    """The request's body was not there in time."""

    code, status = "request_timeout", 408


class Overloaded(MoatelierError):
    """More is asked than can be answered in time; the same request may be sent again later.

    Args:
        what, where, remedy: As for every error.
        retry_after_s: When to come back.
    """

    code, status = "overloaded", 429

    def __init__(self, what: str, *, where: str = "", remedy: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """More requests or tokens a minute than the key has, or too many wrong keys."""

    code = "rate_limit_exceeded"


class QuotaExceeded(MoatelierError):
    """The project has used up its storage or its training time; coming back soon is of no use."""

    code, status = "insufficient_quota", 429


class Conflict(MoatelierError):
    """The thing is not in a state in which this can be done (a stale approval, a finished task)."""

    code, status = "conflict", 400


class ServiceRunning(MoatelierError):
    """Another service already owns the data directory or the port."""

    code, status = "service_running", 409


class IntegrityError(MoatelierError):
    """Bytes differ from what their digest promises: a download, an artifact or a sealed bundle."""

    code, status = "integrity_error", 409


class ModelUnavailable(MoatelierError):
    """A catalogue entry cannot be had: not pulled, no source reachable, or of a kind this engine does not run."""

    code, status = "model_unavailable", 503


class UpstreamError(MoatelierError):
    """A model endpoint failed, answered junk or was too slow."""

    code, status = "upstream_error", 502


class UpstreamRefused(UpstreamError):
    """A model endpoint is well, and refuses this request: too long, or a field it does not know."""

    code, status = "upstream_refused", 400


class DeadlineExceeded(MoatelierError):
    """The answer was not ready by the time the caller had set."""

    code, status = "deadline_exceeded", 504


class ResourceExhausted(MoatelierError):
    """Disk, memory or a budget is used up."""

    code, status = "resource_exhausted", 507


class LooksExhausted(ResourceExhausted):
    """The locked test set has had all the looks its statistical budget allows."""

    code, status = "looks_exhausted", 409


class JobFailed(MoatelierError):
    """A job's process ended without a result; `where` names its folder with the log."""

    code = "job_failed"


class Cancelled(MoatelierError):
    """The work was cancelled by a person or by shutdown."""

    code, status = "cancelled", 400
