"""The ASGI application that serves the page's static files.

The page refers to its files in a folder that is named after their content (``v-<digest>/page.js``), so that browsers
cache them for good: to open the page again fetches only the page itself.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).resolve().parent / "static"
PAGE = "index.html"

HEADERS = {
    # Scripts and styles are files of this folder, data comes from this origin; nothing else is loaded.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Without a version a file changes with the package: it is revalidated (304), as files of two versions break the page.
REVALIDATED, IMMUTABLE = {"Cache-Control": "no-cache"}, {"Cache-Control": "public, max-age=31536000, immutable"}

_VERSION = re.compile(r"v-[0-9a-f]+(?:/|$)")
_LOCAL_FILE = re.compile(r'((?:href|src)=")([\w-]+\.(?:js|css|svg)")')


def _version() -> str:
    content = hashlib.sha256()
    for file in sorted(FOLDER.iterdir()):
        content.update(file.name.encode() + file.read_bytes())
    return f"v-{content.hexdigest()[:12]}/"


VERSION = _version()
"""The folder that names the files' present content."""


class PageFiles(StaticFiles):
    """Static files with headers for caching and a content security policy."""

    def file_response(self, full_path: Any, stat_result: os.stat_result, scope: Any, *args: Any) -> Response:
        """Return a file, or 304 if the browser has it cached.

        Args:
            full_path: The file.
            stat_result: Its status.
            scope: The request's ASGI scope.
            args: What other versions of Starlette pass: the HTTP status.
        """
        if Path(full_path).name == PAGE:
            html = Path(full_path).read_text(encoding="utf-8")
            return HTMLResponse(_LOCAL_FILE.sub(rf"\g<1>{VERSION}\g<2>", html), headers={**HEADERS, **REVALIDATED})
        response = super().file_response(full_path, stat_result, scope, *args)
        response.headers.update(HEADERS | (IMMUTABLE if f"/{VERSION}" in scope["path"] else REVALIDATED))
        return response

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Return a file's path and status, none for hidden files and null bytes (older Starlettes fail on these).

        A folder of another version leads to the present file, for a page that a server of that version has served.
        """
        if "\0" in path or any(part.startswith(".") and part != "." for part in path.split("/")):
            return "", None
        return super().lookup_path(_VERSION.sub("", path, count=1) if _VERSION.match(path) else path)


app = PageFiles(directory=FOLDER, html=True)
