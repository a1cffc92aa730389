"""The name that a process of the stack goes by, so that workers on this machine can be told apart in Airflow."""

from __future__ import annotations

import os
import socket


def name() -> str:
    """Return the name; Airflow calls this wherever it notes a host."""
    return os.environ.get("STACK_MACHINE") or socket.gethostname()
