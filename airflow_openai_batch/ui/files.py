"""The ASGI application behind the page: its static files and nothing else.

The page names its files by a folder that changes with their content (``v-<digest>/page.js``), so that browsers keep
them: who opens it again fetches the page itself and no other file.
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
    # Scripts and styles come from files of this folder, data from this origin; nothing else is ever loaded.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Under its own name a file changes with the package: asking is cheap (304), a mix is a broken page.
ASKED_FOR, KEPT = {"Cache-Control": "no-cache"}, {"Cache-Control": "public, max-age=31536000, immutable"}

_VERSION = re.compile(r"v-[0-9a-f]+(?:/|$)")
_LOCAL_FILE = re.compile(r'((?:href|src)=")([\w-]+\.(?:js|css|svg)")')


def _version() -> str:
    content = hashlib.sha256()
    for file in sorted(FOLDER.iterdir()):
        content.update(file.name.encode() + file.read_bytes())
    return f"v-{content.hexdigest()[:12]}/"


VERSION = _version()
"""The folder of the files as they are now."""


class PageFiles(StaticFiles):
    """Static files with headers for caches and against foreign scripts."""

    def file_response(self, full_path: Any, stat_result: os.stat_result, scope: Any, *args: Any) -> Response:
        """Return a file, or 304 if the browser has it."""
        if Path(full_path).name == PAGE:
            html = Path(full_path).read_text(encoding="utf-8")
            return HTMLResponse(_LOCAL_FILE.sub(rf"\g<1>{VERSION}\g<2>", html), headers={**HEADERS, **ASKED_FOR})
        response = super().file_response(full_path, stat_result, scope, *args)
        response.headers.update(HEADERS | (KEPT if f"/{VERSION}" in scope["path"] else ASKED_FOR))
        return response

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Find a file by its path; a leading dot has no business here, nor a null byte: older Starlettes fail on it.

        A folder of another version leads to the file as it is now, for a page that a server of before has given out.
        """
        if "\0" in path or any(part.startswith(".") and part != "." for part in path.split("/")):
            return "", None
        return super().lookup_path(_VERSION.sub("", path, count=1) if _VERSION.match(path) else path)


app = PageFiles(directory=FOLDER, html=True)
