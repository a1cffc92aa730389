"""What these tests need of the machine."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unavailable(what: str) -> NoReturn:
    """Skip; in CI fail, because there a skipped promise would look like a kept one."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what}; install it to run these tests")
