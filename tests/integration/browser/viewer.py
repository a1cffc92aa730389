"""A person at a screen: opens a page of Airflow, reads, clicks, and notes what goes wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Frame, FrameLocator, Locator, Page, Request

NAV = "/plugin/openai-batches"
PAGE = "/openai-batch/"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
MAX_BYTES = 250_000

CUT = """() => [...document.querySelectorAll('body *')].filter(one => {
  if (one.closest('.scroll, pre, datalist, .sr, svg')) return false;  // these scroll, or are not seen
  const box = one.getBoundingClientRect();
  const isClipped = getComputedStyle(one).overflowX !== 'visible' && one.scrollWidth > one.clientWidth + 1;
  const edge = one.parentElement.getBoundingClientRect().right;
  return box.width > 0 && (box.right > Math.min(innerWidth, edge) + 1 || box.left < -1 || isClipped);
}).map(one => `${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 40)}`)"""


class Viewer:
    """One window. Inside Airflow's pages `self.frame` is our frame; opened by itself it is the page.

    Attributes:
        errors: What the browser's console and the page's scripts complained about.
        calls: Requests of our page to the REST API since the last `forget()`.
        requests: All requests of our page, for files too.
        first_row_s: Seconds from navigation to the first row with a value, once `wait_for_rows()` has returned.
    """

    def __init__(self, browser: Browser, url: str, pictures: Path, *, dark: bool = False, phone: bool = False) -> None:
        self.url, self.pictures = url, pictures
        self.scheme = "dark" if dark else "light"
        self.context = browser.new_context(
            base_url=url, viewport=PHONE if phone else WIDE, color_scheme=self.scheme, has_touch=phone
        )
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.calls: list[Request] = []
        self.requests: list[Request] = []
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note)

    def close(self) -> None:
        self.context.close()

    def _note(self, request: Request) -> None:
        # Airflow's own page calls the same API; only what comes from our frame counts.
        if self._is_ours(request.frame):
            self.requests.append(request)
            if "/api/v2/" in request.url:
                self.calls.append(request)

    @staticmethod
    def _is_ours(frame: Frame) -> bool:
        return PAGE in frame.url

    def go(self, path: str) -> None:
        """Open a path and wait until our page has shown something."""
        self.started = time.monotonic()
        self.page.goto(path, wait_until="commit")
        self.main.locator("> *").first.wait_for(timeout=30_000)

    def forget(self) -> None:
        self.calls.clear()

    def forget_refusals_of_airflow(self) -> None:
        """Forget what Airflow's own page around ours asked for and may not see. Refusals of our page stay."""
        answers = [request.response() for request in self.requests]
        assert not [answer.url for answer in answers if answer is not None and answer.status == 403]
        self.errors[:] = [error for error in self.errors if "403 (Forbidden)" not in error]

    def log_in_as_anybody(self) -> None:
        """Get a session where everybody is an admin: Airflow 3.1 sends a browser without one away first."""
        self.context.request.get("/auth/token/login", max_redirects=0)

    def log_in(self, user: str, password: str) -> list[Any]:
        """Get a session by Airflow's own login form, and return its cookies."""
        self.page.goto("/auth/login/")
        self.page.get_by_placeholder("Username").or_(self.page.locator("input[name=username]")).first.fill(user)
        self.page.locator("input[type=password]").first.fill(password)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(lambda url: "/auth/login" not in url)
        self.errors.clear()  # neither the form nor the page after it is ours
        return list(self.context.cookies())

    @property
    def frame(self) -> FrameLocator | Page:
        is_framed = PAGE not in self.page.url.split("?")[0] or NAV in self.page.url
        return self.page.frame_locator("iframe[title='OpenAI Batches']") if is_framed else self.page

    @property
    def main(self) -> Locator:
        return self.frame.locator("#main")

    @property
    def rows(self) -> Locator:
        return self.frame.locator("tr[data-open]")

    def row(self, text: str) -> Locator:
        return self.rows.filter(has_text=text)

    def wait_for_rows(self) -> None:
        self.rows.locator(".bar").first.wait_for(timeout=30_000)
        self.first_row_s = time.monotonic() - self.started

    def wait_for_text(self, text: str, timeout: float = 30) -> None:
        self.frame.get_by_text(text).first.wait_for(timeout=timeout * 1000)

    def wait_until_looked(self) -> None:
        """Wait until the page has read all it wants to read for now."""
        self.frame.locator("#seen:has-text('Updated')").wait_for(timeout=30_000)
        self.frame.locator("#refresh:not(.busy)").wait_for(timeout=30_000)

    def unfold(self) -> None:
        """Show the jobs of mapped tasks one by one."""
        for fold in self.frame.locator("[data-act=toggle][aria-expanded=false]").all():
            fold.click()

    def open_job(self, text: str) -> None:
        self.row(text).first.locator("a.name").click()
        self.frame.locator("#title").wait_for()
        self.frame.locator(".shards").wait_for()

    def cut(self) -> list[str]:
        """Return what of our page does not fit into its width."""
        cut: list[str] = self.frame.locator("body").evaluate(CUT)
        return cut

    def copies(self, name: str) -> str:
        """Click a button that copies, and return what a person can paste then."""
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.frame.get_by_role("button", name=name).click()
        self.wait_for_text("Copied: ")
        pasted: str = self.page.evaluate("() => navigator.clipboard.readText()")
        return pasted

    def focus(self) -> dict[str, Any]:
        """Tell what has the focus in our page: its tag, id, text and visible outline."""
        body = self.frame.locator("body")
        return body.evaluate(
            "() => { const at = document.activeElement, style = getComputedStyle(at);"
            " return {tag: at.tagName, id: at.id, text: at.textContent.trim(), dialog: !!at.closest('dialog'),"
            " outline: style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth)}; }"
        )

    def picture(self, name: str, *, whole: bool = False) -> Path:
        """Write `ui-<name>-<scheme>.png` as the viewer sees it."""
        self.page.wait_for_timeout(700)  # bars move for 0.6 s
        path = self.pictures / f"ui-{name}-{self.scheme}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, full_page=whole)
        assert path.stat().st_size < MAX_BYTES, f"{path} is too big for a README"
        return path
