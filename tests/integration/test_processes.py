"""What a local Airflow stops is gone."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil

from airflow_openai_batch.local_airflow.processes import SessionProcess, stop_all


def test_stopping_ends_children_that_ignore_every_polite_signal(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('deaf'); time.sleep(600)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-uc', {stubborn!r}], process_group=0).wait()"
    log = tmp_path / "log"
    process = SessionProcess("stubborn", [sys.executable, "-c", parent], dict(os.environ), log)
    process.start()
    while "deaf" not in log.read_text():
        time.sleep(0.02)
    pids = process.session_pids()
    assert len(pids) == 2
    stop_all([process], timeout=1)
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
