"""Everything the engine raises. A message says what happened, what it means for the money, what to do."""

from __future__ import annotations


class EngineError(Exception):
    """Base of every error that the engine raises on purpose."""


class InputError(EngineError):
    """The rows, the request or a setting cannot be used. Raised before anything is paid for."""


class StoreError(EngineError):
    """The job store cannot be reached, read or written, or does not behave as a job store must."""


class CommitRefused(EngineError):
    """Someone else has made the snapshot that this process wanted to make: load again."""


class UnknownFormat(StoreError):
    """The job was written by a version of this package with another state format."""


class JobNotReady(EngineError):
    """Results were asked of a job that still has work to do."""


class ApiError(EngineError):
    """A call to OpenAI went wrong. The subclass says what is known about its effect.

    Attributes:
        status: HTTP status, or None when no answer arrived.
        code: OpenAI's error code, if it gave one.
        request_id: OpenAI's id of the request, for a support ticket.
        retry_after_s: Seconds that OpenAI asked to wait, if it did.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class Refused(ApiError):
    """OpenAI said no: nothing happened, and the same call would be refused again."""


class NotFound(Refused):
    """OpenAI does not know the object (HTTP 404)."""


class QueueFull(ApiError):
    """The organization's queue for this model is full: nothing happened, the same call may pass later."""


class Unavailable(ApiError):
    """Nothing happened and the same call may pass later (rate limit, connection never made)."""


class Unclear(ApiError):
    """The call may have taken effect: the answer was lost or was a server error."""


class Denied(ApiError):
    """The credentials are wrong, lack a scope, or the account is out of money: a person must act."""
