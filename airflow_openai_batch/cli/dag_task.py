"""A task of a Dag file, and a context for it as a run would have it. There is no run, and no database is written to."""

from __future__ import annotations

import datetime
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_openai_batch.exceptions import OpenAIBatchFailure

_MOST_NAMES = 20


class NoTask(Exception):
    """There is no such task. The message says what there is."""


class NoXCom(OpenAIBatchFailure):
    """The task needs the output of another one, and none has run."""


def load_dag(dag_id: str, file: str | None = None) -> Any:
    """Return a Dag from the files of the deployment's bundles.

    Args:
        dag_id: The Dag.
        file: The file to look in; by default all files of all bundles.

    Raises:
        NoTask: There is none; with the errors of files that could not be read.
    """
    errors: dict[str, str] = {}
    folders = _bundle_folders()
    for folder in folders if file is None else [Path(file).absolute().parent]:
        bag = _bag_of(folder if file is None else Path(file).absolute(), folder, dag_id)
        if dag_id in bag.dags:
            return bag.dags[dag_id]
        errors |= bag.import_errors
    told = "".join(f"\n{path}: {error.strip().splitlines()[-1]}" for path, error in list(errors.items())[:_MOST_NAMES])
    raise NoTask(f"There is no Dag {dag_id!r}{' in ' + file if file else ''}.{told}")


def _bundle_folders() -> list[Path]:
    """Return the folders of the deployment's bundles, from which Dag files can be imported from now on."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    manager: Any = DagBundlesManager
    folders = []
    for bundle in manager().get_all_dag_bundles():
        bundle.initialize()
        folders.append(Path(bundle.path))
        if str(bundle.path) not in sys.path:  # as Airflow does where it parses a bundle
            sys.path.append(str(bundle.path))
    return folders


def _bag_of(place: Path, folder: Path, dag_id: str) -> Any:
    """Return the Dags of a file or folder, parsed as if only one of them were needed."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 3.1
        from airflow.models.dagbag import DagBag  # type: ignore[no-redef] # the same
    from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager

    with _airflow_parsing_context_manager(dag_id=dag_id):
        return DagBag(dag_folder=str(place), bundle_path=folder)


def submitting_task(dag: Any, task_id: str) -> Any:
    """Return a task of a Dag that submits a job, mapped or not.

    Args:
        dag: The Dag.
        task_id: The task.

    Raises:
        NoTask: It is none, or there is no such task.
    """
    ours = [task.task_id for task in dag.tasks if _submits(task)]
    if task_id in ours:
        return dag.task_dict[task_id]
    there_is = f"{task_id!r} submits no job" if task_id in dag.task_dict else f"there is no task {task_id!r}"
    names = ", ".join(ours[:_MOST_NAMES]) or "no task at all"
    raise NoTask(f"In the Dag {dag.dag_id!r} {there_is}; what submits is {names}.")


def _submits(task: Any) -> bool:
    from airflow_openai_batch.task.submitting import JobMaker

    operator_class = getattr(task, "operator_class", type(task))
    return isinstance(operator_class, type) and issubclass(operator_class, JobMaker)


@contextmanager
def rendered(
    task: Any, *, run_id: str, conf: Mapping[str, Any], logical_date: str | None, map_index: int
) -> Iterator[Any]:
    """Give the context of a task in a run that does not exist, with the task in it rendered.

    Args:
        task: The task.
        run_id: The id of the run.
        conf: The run's conf.
        logical_date: The run's logical date; by default now, as when somebody triggers it.
        map_index: Of a mapped task; -1 of another one.

    Raises:
        NoXCom: A template or argument needs what another task returns.
        NoTask: A mapped task needs a map index.
    """
    from airflow.sdk.execution_time.context import set_current_context

    if hasattr(task, "expand_input") and map_index < 0:
        raise NoTask(f"{task.task_id!r} is mapped: name the one of its instances that you mean with --map-index.")
    instance = _instance(task, run_id, conf, _date(logical_date), map_index)
    context: Any = instance.get_template_context()
    with set_current_context(context):
        instance.task.render_template_fields(context)
        yield context


def _date(text: str | None) -> datetime.datetime:
    from airflow.sdk import timezone

    try:
        date: datetime.datetime = timezone.parse(text) if text else timezone.utcnow()
    except ValueError:
        raise NoTask(f"--logical-date {text!r} is no date, such as 2026-01-31 or 2026-01-31T06:00:00+00:00.") from None
    return date


def _instance(task: Any, run_id: str, conf: Mapping[str, Any], date: datetime.datetime, map_index: int) -> Any:
    from airflow.sdk.api.datamodels._generated import DagRun, TIRunContext
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    class Instance(RuntimeTaskInstance):
        """A task instance of which no server knows."""

        def xcom_pull(self, task_ids: Any = None, *args: Any, **given: Any) -> Any:
            """Refuse.

            Raises:
                NoXCom: Always.
            """
            name = ", ".join([task_ids] if isinstance(task_ids, str) else map(str, task_ids or ["another task"]))
            raise NoXCom(
                f"The task {self.task_id!r} needs what {name} returns, and nothing has run. Plan it in a run: trigger "
                'the Dag with the conf {"openai_batch_plan_only": true}, and nothing is sent in it.'
            )

        def xcom_push(self, *args: Any, **given: Any) -> None:
            """Do nothing."""

    interval = _data_interval(task.dag, date)
    run = _constructed(
        DagRun,
        dag_id=task.dag_id,
        run_id=run_id,
        logical_date=date,
        data_interval_start=interval.start if interval else None,
        data_interval_end=interval.end if interval else None,
        run_after=interval.end if interval else date,
        start_date=date,
        run_type="manual",
        state="running",
        conf=dict(conf),
        clear_number=0,
        consumed_asset_events=[],
    )
    return Instance.model_construct(
        id=uuid.uuid4(),
        task_id=task.task_id,
        dag_id=task.dag_id,
        run_id=run_id,
        try_number=1,
        map_index=map_index,
        max_tries=0,
        start_date=date,
        task=task.prepare_for_execution(),
        _ti_context_from_server=_constructed(TIRunContext, dag_run=run, max_tries=0, task_reschedule_count=0),
    )


def _constructed(model: Any, **values: Any) -> Any:
    """Return a value of a model with all fields that this Airflow has, None where nothing is given."""
    return model.model_construct(**{**dict.fromkeys(model.model_fields), **values})


def _data_interval(dag: Any, date: datetime.datetime) -> Any:
    """Return the data interval of a run that somebody triggers at a date."""
    from airflow.serialization import serialized_objects

    # Airflow 3.1 has the second name.
    form: Any = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG  # type: ignore[attr-defined]
    return form.from_dict(form.to_dict(dag)).timetable.infer_manual_data_interval(run_after=date)
