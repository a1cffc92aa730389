"""HTTP errors in OpenAI's envelope."""

from __future__ import annotations

from airflow_openai_batch.emulator.model import JsonObject


class ApiRefusal(Exception):
    """An HTTP error in OpenAI's envelope."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def to_json(self) -> JsonObject:
        """Return the error envelope."""
        return error_json(self.status, self.message, code=self.code, param=self.param)


def error_json(status: int, message: str, *, code: str | None = None, param: str | None = None) -> JsonObject:
    """Return OpenAI's error envelope with the type that goes with a status."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
