"""Answers that a further process reads: whatever becomes of it, each row is paid once and has its answer."""

from __future__ import annotations

import os
import signal

import pytest

from airflow_openai_batch.engine.answers import readers as readers_module
from airflow_openai_batch.engine.answers.readers import Readers


@pytest.mark.parametrize("sent", [None, signal.SIGKILL, signal.SIGSTOP], ids=["nothing", "killed", "it hangs"])
def test_a_job_of_which_another_process_reads_answers(world, monkeypatch, sent):
    monkeypatch.setattr(readers_module, "_LEAST_BYTES", 0)
    if sent is signal.SIGSTOP:
        monkeypatch.setattr(readers_module, "_MOST_S", 0.5)
        monkeypatch.setattr(readers_module, "_LEAVES_IN_S", 0.1)
    real, processes = readers_module._ReaderProcess.read, []

    def read(process, *args):
        processes.append(process._process)
        if sent is not None:
            os.kill(process._process.pid, sent)
        return real(process, *args)

    monkeypatch.setattr(readers_module._ReaderProcess, "read", read)
    w = world()
    engine = w.engine(readers=Readers(2))
    w.submit(12, per_shard=2, engine=engine)
    with engine.readers._here:  # this process is busy with another batch
        summary = w.done(engine)
    assert processes, "no other process was asked"
    assert all(process.poll() is not None for process in processes), "it outlives what it was started for"
    assert summary.by_status == {"succeeded": 12}
    w.assert_paid_once(12)
