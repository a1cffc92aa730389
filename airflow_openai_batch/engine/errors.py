"""The exceptions of the engine. A message says what happened, whether anything was paid for, and what to do."""

from __future__ import annotations

from typing import Any


class EngineError(Exception):
    """Base class of the engine's exceptions."""


class InputError(EngineError):
    """The rows, the request or a setting is invalid. Raised before anything is paid for."""


class StoreError(EngineError):
    """The job store cannot be reached, read or written, or lacks a guarantee that a job store needs."""


class DatabaseError(EngineError):
    """A database that rows come from or results go to has failed, in a way that a retry may mend."""


class CommitRefused(EngineError):
    """Another process has committed the snapshot with this number: load the job again."""


class UnknownFormat(StoreError):
    """The job was written by a version of this package with another state format."""


class ForeignJob(StoreError):
    """The job in this place belongs to another deployment, or is another job."""


class JobCleaned(StoreError):
    """The job is no longer in its store: it was cleaned because it was old, or forgotten as a person asked.

    Args:
        message: When that was, and what to do.
        tombstone: What stands in its place.
        number: The number that the tombstone has among the job's snapshots.
    """

    def __init__(self, message: str, tombstone: Any, number: int = -1) -> None:
        super().__init__(message)
        self.tombstone = tombstone
        self.number = number


class JobNotReady(EngineError):
    """Results were requested of a job that is not finished."""


class JobHeld(EngineError):
    """The job needs a person. Nothing is lost, and whoever asks for it again goes on from here."""


class BadRows(EngineError):
    """More rows have no good answer than the job allows. All outcomes are in its store."""


class ApiError(EngineError):
    """A call to OpenAI failed. The subclass says whether it had an effect and whether a retry may succeed.

    Args:
        message: What happened.
        status: HTTP status; None when no response arrived.
        code: OpenAI's error code, if there is one.
        request_id: OpenAI's id of the request, for a support ticket.
        retry_after_s: The `Retry-After` header in seconds, 0 to 3600, if there is one.
        is_openais: Whether the answer has OpenAI's own form, so that no proxy or firewall gave it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        is_openais: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.is_openais = is_openais


class Refused(ApiError):
    """OpenAI itself rejected the call, without effect, and would reject the same call again."""


class NotFound(Refused):
    """OpenAI itself does not know the object (HTTP 404), or has it no more (410)."""


class Unfetchable(NotFound):
    """A file is named by an address or a path, which is no id of a file."""


class QueueFull(ApiError):
    """The organization's batch queue for this model is full: no effect, the same call may succeed later."""


class Unavailable(ApiError):
    """The call had no effect and may succeed later (rate limit, connection not established)."""


class FilePending(Unavailable):
    """The batch was not created because the uploaded file is still being processed, as on Azure: no effect."""


class Unclear(ApiError):
    """The call may have taken effect: the response was lost, or was none in which OpenAI itself accepts or refuses."""


class Stranger(Unclear):
    """What answered does not speak OpenAI's API: a login page, a firewall, or the address of something else.

    Once, it may be a proxy that stumbled; the call may even have taken effect.
    """


class Accepted(Unclear):
    """The create was accepted (HTTP 2xx), but its response cannot be read: most likely a batch exists."""


class Denied(ApiError):
    """The credentials are wrong or lack a scope, or the account is out of money: needs manual intervention."""
