"""A job that a process of its own drives: a notebook, a script, a build. Found again by its name."""

from __future__ import annotations

import getpass
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.api.connection import client_or_default
from airflow_openai_batch.engine.errors import BadRows, InputError, JobCleaned, JobHeld
from airflow_openai_batch.engine.job.advance import advance, load
from airflow_openai_batch.engine.job.commands import cancel
from airflow_openai_batch.engine.job.context import Change, Engine, Unobserved
from airflow_openai_batch.engine.job.remote_files import delete_files
from airflow_openai_batch.engine.job.request import Request
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.job.submit import submit
from airflow_openai_batch.engine.job.summary import check_thresholds
from airflow_openai_batch.engine.job.waiting import begin_waiting
from airflow_openai_batch.engine.model import Job, JobKey, Policy
from airflow_openai_batch.engine.money.dollars import parse_dollars
from airflow_openai_batch.engine.progress.compute import look_after, progress_of
from airflow_openai_batch.engine.progress.model import Look, Phase, Progress
from airflow_openai_batch.engine.results.sinks import FileSink
from airflow_openai_batch.engine.results.writer import manifest, write_results
from airflow_openai_batch.engine.schema.validation import class_check
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_STORAGE = "~/openai_batch"

_DAG_ID, _TASK_ID = "notebook", "run"
"""Stand where those of a task stand, so that the command line shows such jobs too."""

_PARALLEL = 4

Show = Callable[[Progress], None]


class BatchJob:
    """A job that this process drives, found again by its name. To make one plans it, and sends nothing.

    Args:
        rows: A list of dicts, a DataFrame, an Arrow table, a path or URI of a ``.parquet``, ``.csv`` or ``.jsonl``
            file, or a callable that yields dicts.
        name: The job's name in its storage.
        endpoint: One of the Batch API's endpoints, as ``/v1/responses``.
        body: The request's body, with ``{column}`` in its texts; or a callable ``row -> body``.
        response_model: A Pydantic class or JSON Schema for strict structured output.
        custom_id: Template of the request ids.
        column_prefix: What stands in front of the names of the answers' fields in the result columns.
        storage: The folder or URI in which jobs are kept. It must outlive this process, or answers are paid again.
        client: An ``openai.OpenAI``; by default one from the environment (``OPENAI_API_KEY``, ``OPENAI_BASE_URL``).
        max_cost: The most that all answers may cost, in dollars; None for no cap.
        max_bad_ratio: The largest share of rows without a good answer that raises no error, 0 to 1; by default the
            policy's, 0.05. With 1 no rows raise one, also where none is good.
        policy: Whatever else is allowed and demanded.
        start_over: Any text; each new text asks, and pays for, everything once more.

    Raises:
        InputError: The rows, the request, a setting or the client cannot be used.
        StoreError: The storage cannot be used.
    """

    def __init__(
        self,
        rows: Any,
        *,
        name: str,
        endpoint: str,
        body: Any,
        response_model: Any = None,
        custom_id: str | None = None,
        column_prefix: str | None = None,
        storage: Any = DEFAULT_STORAGE,
        client: Any = None,
        max_cost: float | str | None = None,
        max_bad_ratio: float | None = None,
        policy: Policy | None = None,
        start_over: str | None = None,
    ) -> None:
        self.name = name
        self._engine = Engine(
            store=_store_of(name, storage),
            api=Api(client_or_default(client)),
            check=class_check(response_model),
            parallel=_PARALLEL,
        )
        request = Request(
            rows,
            endpoint=endpoint,
            body=body,
            response_model=response_model,
            custom_id=custom_id,
            column_prefix=column_prefix,
        )
        given = _policy_with(policy or Policy(), max_cost, max_bad_ratio)
        submit(self._engine, request, given, start_over=start_over)
        begin_waiting(self._engine)
        self._look: Look | None = None

    def advance(self, show: Show | None = None) -> Wait | Done:
        """Move the job as far as it can go now: send what there is room for, fetch what has ended.

        Args:
            show: Told where the job stands, also on the way.

        Raises:
            JobHeld: It needs a person. Nothing is lost.
            StoreError: The storage cannot be used.
        """
        self._engine.observer = _Shown(self, show) if show is not None else Unobserved()
        reached = advance(self._engine)
        if show is not None:
            values = {Done: {"phase": Phase.DONE}, Held: {"phase": Phase.HELD}}.get(type(reached), {})
            self.show(reached.job, show, **values)
        if isinstance(reached, Held):
            raise JobHeld(f"The job {self.name!r} is held: {reached.reason}")
        return reached

    def show(self, job: Job, show: Show, **values: Any) -> None:
        """Tell where the job stands.

        Args:
            job: The job as it is now.
            show: Who is told.
            values: What only the caller knows; see ``progress.compute.progress_of``.
        """
        progress = progress_of(job, self._engine.clock(), self._engine.timing, look=self._look, **values)
        show(progress)
        self._look = look_after(self._look, progress)

    def cancel(self) -> None:
        """Cancel what runs, and never send the rest. Finished answers are kept; ``start_over`` asks everything again.

        Raises:
            StoreError: The storage cannot be used.
        """
        cancel(self._engine)

    def table(self) -> pa.Table:
        """Return the results of a finished job: the input columns, the outcome and the answer, in input order.

        Raises:
            BadRows: More rows have no good answer than the job allows.
            JobNotReady: The job is not finished.
        """
        import pyarrow.parquet as pq
        from upath import UPath

        with tempfile.TemporaryDirectory() as folder:
            path = UPath(folder) / "results.parquet"
            self.write(path)
            return pq.read_table(str(path))

    def write(self, output: Any, *, drop_columns: Sequence[str] = ()) -> dict[str, Any]:
        """Write the results of a finished job to a file, in memory that does not grow with the job.

        Args:
            output: Path or URI of a ``.parquet``, ``.jsonl`` or ``.csv`` file.
            drop_columns: The columns that are left out.

        Returns:
            The manifest: counts by outcome, tokens, cost, batches.

        Raises:
            BadRows: More rows have no good answer than the job allows. They were written all the same.
            JobNotReady: The job is not finished.
            StoreError: The file cannot be written.
        """
        job = load(self._engine).job
        written = write_results(self._engine.store, job, FileSink(path_of(output)), drop_columns)
        if job.policy.delete_files:
            delete_files(self._engine)
        problem = check_thresholds(written.summary, job.policy)
        # Who allows every row to be bad wants to look at them, also where none is good.
        if problem is not None and job.policy.max_bad_ratio < 1:
            raise BadRows(
                f"{problem} No answer is lost: with a higher max_bad_ratio (1 allows everything) the same name gives "
                "all rows as they are, and nothing is paid again."
            )
        return manifest(written)


class _Shown(Unobserved):
    """Tells where a job stands whenever a fact is in the store."""

    def __init__(self, job: BatchJob, show: Show) -> None:
        self._job, self._show = job, show

    def committed(self, job: Job, changes: Sequence[Change]) -> None:
        self._job.show(job, self._show)


def path_of(place: Any) -> Any:
    """Return a path object of a path, a URI, or a path object."""
    from upath import UPath

    return UPath(os.path.expanduser(place)).absolute() if isinstance(place, str | os.PathLike) else place


def _store_of(name: str, storage: Any) -> JobStore:
    """Return the store of a named job. A new one belongs to this person on this machine, or to its remote storage.

    Whose it is stands in the names of batches, so that two people who choose the same name do not share any.
    """
    root = path_of(storage)
    store = JobStore(root, key_of(name))
    try:
        is_new = store.load() is None
    except JobCleaned:
        is_new = False  # whoever asks for the name of a job that was forgotten wants it anew; its owner is known
    if is_new:
        store.owner = f"{getpass.getuser()}@{platform.node()}" if store.is_local else str(root)
    return store


def key_of(name: str) -> JobKey:
    """Return the key of a named job.

    Raises:
        InputError: The name is none.
    """
    if type(name) is not str or not name.strip():
        raise InputError(f"name must be a text by which the job is found again, not {name!r}.")
    return JobKey(dag_id=_DAG_ID, run_id=name, task_id=_TASK_ID)


def _policy_with(policy: Policy, max_cost: float | str | None, max_bad_ratio: float | None) -> Policy:
    changes: dict[str, Any] = {}
    if max_cost is not None:
        changes["max_cost"] = parse_dollars(max_cost, "max_cost")
    if max_bad_ratio is not None:
        changes["max_bad_ratio"] = max_bad_ratio
    return msgspec.structs.replace(policy, **changes)
