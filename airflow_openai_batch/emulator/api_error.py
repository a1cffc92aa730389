"""HTTP errors in OpenAI's envelope, `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_openai_batch.emulator.model import JsonObject


class ApiError(Exception):
    """An HTTP error that the API answers.

    Args:
        status: The HTTP status.
        message: The text for people.
        code: The machine-readable code, if the API gives one.
        param: The parameter that is wrong, if it is one.
        headers: More headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def to_json(self) -> JsonObject:
        """Return the error envelope."""
        return error_json(self.status, self.message, code=self.code, param=self.param)


def error_json(status: int, message: str, *, code: str | None = None, param: str | None = None) -> JsonObject:
    """Return OpenAI's error envelope with the error type of an HTTP status.

    Args:
        status: The HTTP status.
        message: The text for people.
        code: The machine-readable code, if the API gives one.
        param: The parameter that is wrong, if it is one.
    """
    error_types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    error_type = error_types.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": error_type, "param": param, "code": code}}
