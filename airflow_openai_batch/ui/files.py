"""The ASGI application behind the page: its static files and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).resolve().parent / "static"

HEADERS = {
    # The files change with the package only, but under the same names: asking is cheap (304), a mix is a broken page.
    "Cache-Control": "no-cache",
    # Scripts and styles come from files of this folder, data from this origin; nothing else is ever loaded.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class PageFiles(StaticFiles):
    """Static files with headers for caches and against foreign scripts."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a file, or 304 if the browser has it."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find a file by its path; a leading dot has no business here, nor a null byte: older Starlettes fail on it."""
        if "\0" in path or any(part.startswith(".") for part in Path(path).parts):
            return "", None
        return super().lookup_path(path)


app = PageFiles(directory=FOLDER, html=True)
