"""The engine: rows become requests, requests become batches, batches become results.

It knows nothing of Airflow. It is handed a client for OpenAI, a path for its job store and the time, and can be driven
from a notebook as well as from a task: ``run`` does it all, and the names below are what more than that needs. The
rooms, in the order in which a row travels:

* ``requests``  rows in, shards out: ``sources``, ``files`` and ``csv_files`` read rows as Arrow record batches
  (``arrow``) whose columns hold each value exactly (``python_rows``, ``tables``, ``column_types``, ``exact_types``) and
  are shown as people see them (``values``); ``bodies`` and ``template`` render them, those with nothing to ask are left
  out (``nulls``), ``lines`` makes request lines,
  ``sharding`` and ``shard_writer`` cut them into files
* ``schema``    strict structured output: ``response_format`` of a request, by the rules of ``strict``; ``validation``
  of an answer; its fields as columns (``columns``, ``arrow_types``)
* ``store``     the job's directory (``job_store``): numbered snapshots made by exclusive create, the rest write-once;
  the ``index`` of each shard
* ``api``       the calls (``client``), of a connection that can work (``connection``), within their time and size
  (``bounds``, ``transport``), what comes back (``batch_json``, ``text``), what an error means (``errors``)
* ``job``       ``submit`` plans a job of a ``request``, or holds it against the plan that is there (``compare``);
  ``advance`` moves it: ``planner`` names what may be done, ``actions`` do it (``create_batch`` is the paid one), facts
  change state (``state_machine``); until a rest (``status``); ``commands`` and ``replay`` are a person's, ``advice``
  is for one; ``remote_files`` at OpenAI are deleted when they are needed no more
* ``answers``   ``harvest`` makes one outcome part of a batch's files: ``readers`` choose the process that does the
  ``reading``; ``fast_parser`` reads good lines, ``parser`` any other, ``bodies`` and ``classify`` say what became of
  the row, ``row_order`` and ``outcome_files`` write it
* ``direct``    a request that is asked synchronously at ``finish_by``: how fast (``pacing``), by which threads
  (``callers``), and its answer as a line of an output file (``lines``), saved as it comes (``answer_log``); who asks,
  and within which cap, is ``job.asking``'s
* ``results``   ``writer`` merges rows and outcomes (``merge``), arranges columns (``layout``) and fills a ``sink``;
  ``error_counts`` tells why rows are bad
* ``money``     what requests cost: ``prices``, ``costs`` of answers, ``tokens`` of requests, the ``budget`` of a job
* ``cleaning``  what may be removed (``rules``) and what removes it (``clean``, ``forget``)
* ``progress``  where a job stands, for people: ``compute``, ``rate``, ``shards``, ``log_format``
* ``notebook``  all of it in one call, for whoever has no Airflow, with a ``progress_line``; the job is a ``batch_job``

Below them all are ``model`` (the words as values), ``identity`` (names and digests), ``endpoints`` (limits),
``encoding``, ``concurrency``, ``durations``, ``redaction`` (what must not be told) and ``errors``.
Facts change state, plan names actions, executing an action yields facts. Nothing else moves a job.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_openai_batch.engine.api.client import Api
    from airflow_openai_batch.engine.batch_job import BatchJob
    from airflow_openai_batch.engine.endpoints import Limits
    from airflow_openai_batch.engine.errors import BadRows, EngineError, InputError, JobHeld, StoreError
    from airflow_openai_batch.engine.job.advance import advance
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.remote_files import delete_files
    from airflow_openai_batch.engine.job.request import Request
    from airflow_openai_batch.engine.job.status import Done, Held, Wait
    from airflow_openai_batch.engine.job.submit import submit
    from airflow_openai_batch.engine.job.summary import check_thresholds, summarize
    from airflow_openai_batch.engine.model import JobKey, Policy, Status
    from airflow_openai_batch.engine.notebook import forget_job, run, wait_for
    from airflow_openai_batch.engine.requests.csv_files import CsvFile
    from airflow_openai_batch.engine.results.sinks import FileSink, ListSink
    from airflow_openai_batch.engine.results.writer import manifest, write_results
    from airflow_openai_batch.engine.store.job_store import JobStore

__all__ = [
    "Api",
    "BadRows",
    "BatchJob",
    "CsvFile",
    "Done",
    "Engine",
    "EngineError",
    "FileSink",
    "Held",
    "InputError",
    "JobHeld",
    "JobKey",
    "JobStore",
    "Limits",
    "ListSink",
    "Policy",
    "Request",
    "Status",
    "StoreError",
    "Wait",
    "advance",
    "check_thresholds",
    "delete_files",
    "forget_job",
    "manifest",
    "run",
    "submit",
    "summarize",
    "wait_for",
    "write_results",
]

_HOMES = {
    "api.client": ("Api",),
    "batch_job": ("BatchJob",),
    "endpoints": ("Limits",),
    "errors": ("BadRows", "EngineError", "InputError", "JobHeld", "StoreError"),
    "job.advance": ("advance",),
    "job.context": ("Engine",),
    "job.status": ("Done", "Held", "Wait"),
    "job.remote_files": ("delete_files",),
    "job.request": ("Request",),
    "job.submit": ("submit",),
    "job.summary": ("check_thresholds", "summarize"),
    "model": ("JobKey", "Policy", "Status"),
    "notebook": ("forget_job", "run", "wait_for"),
    "requests.csv_files": ("CsvFile",),
    "results.sinks": ("FileSink", "ListSink"),
    "results.writer": ("manifest", "write_results"),
    "store.job_store": ("JobStore",),
}


def __getattr__(name: str) -> Any:
    """Load a name when it is asked for: a Dag file that imports the operators does not pay for the engine."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
