"""OpenLineage datasets and facets of a job: inputs, outputs and row counts, never the content of rows.

OpenLineage is imported only when its provider calls: it is not required.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec

from airflow_openai_batch.hooks import as_path, without_connection

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset

    from airflow_openai_batch.engine.model import Job
    from airflow_openai_batch.engine.results.writer import Written


_MOST_BATCHES = 100

_ATTRIBUTE = "_openai_batch_lineage"


class TaskResult(msgspec.Struct, frozen=True):
    """The job of a task, and the results that it has written."""

    job: Job
    written: Written | None = None


def remember(task: Any, job: Job, written: Written | None = None) -> None:
    """Keep the result of a task for OpenLineage, which requests it when the task ends.

    Args:
        task: The operator.
        job: Its job, as it is now.
        written: The results, if the task has written them.
    """
    setattr(task, _ATTRIBUTE, TaskResult(job, written))


class WithLineage:
    """Mixin of operators that provide lineage to OpenLineage."""

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any] | None:
        """Return the lineage by the operator's arguments."""
        return _lineage(self, None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Return the lineage of a task that succeeded."""
        return _lineage(self, getattr(self, _ATTRIBUTE, None))

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Return the lineage of a task that failed: results beyond the thresholds were written nevertheless."""
        return _lineage(self, getattr(self, _ATTRIBUTE, None))


def _lineage(operator: Any, result: TaskResult | None) -> OperatorLineage[Any, Any] | None:
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
    except ImportError:
        return None
    if result is None:
        output = getattr(operator, "output_uri", None)
        return OperatorLineage(
            inputs=[dataset(place) for place in _places(operator)],
            outputs=[dataset(str(as_path(output)))] if isinstance(output, str) and output else [],
        )
    from airflow_openai_batch.reporting.openlineage_facets import job_facet, output_facets, statistics

    places = result.job.sources
    n_rows = result.job.n_rows if len(places) == 1 else None
    return OperatorLineage(
        inputs=[dataset(place, inputs=statistics(n_rows)) for place in places],
        outputs=[dataset(place, **facets) for place, facets in output_facets(result.written)],
        run_facets={"openai_batch": job_facet(result.job, result.written)},
    )


def _places(operator: Any) -> Iterable[str]:
    """Return the URIs of the files that the ``rows`` parameter names, as the engine reads them."""
    from airflow_openai_batch.engine.requests.sources import places_of

    rows = getattr(operator, "rows", None)
    return (str(as_path(place)) for place in places_of(getattr(rows, "value", rows)))


def dataset(place: str, **facets: Mapping[str, Any]) -> Dataset:
    """Return the OpenLineage dataset of a file.

    Args:
        place: Its URI, or a glob pattern.
        **facets: ``facets`` of the dataset, ``inputs`` of it as an input, ``outputs`` of it as an output.
    """
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    namespace, name = dataset_name(place)
    if "inputs" in facets:
        return InputDataset(namespace=namespace, name=name, inputFacets=dict(facets["inputs"]))
    return OutputDataset(
        namespace=namespace,
        name=name,
        facets=dict(facets.get("facets", {})),
        outputFacets=dict(facets.get("outputs", {})),
    )


def dataset_name(place: str) -> tuple[str, str]:
    """Return namespace and name of a file by OpenLineage's naming conventions."""
    from openlineage.client.naming import dataset as naming

    parts = urlsplit(without_connection(place))
    host, path = parts.netloc, unquote(parts.path)
    container, _, service = host.partition("@")
    named: naming.DatasetNaming
    match parts.scheme:
        case "" | "file":
            named = naming.LocalFileSystem(path=path)
        case "s3" | "s3a" | "s3n":
            named = naming.S3(bucket_name=host, object_key=path.lstrip("/"))
        case "gs" | "gcs":
            named = naming.GCS(bucket_name=host, object_key=path.lstrip("/"))
        case "abfs" | "abfss" if service:
            named = naming.ABFSS(container=container, service=service.partition(".")[0], path=path.lstrip("/"))
        case "postgres" | "sqlite" | "duckdb" as database:
            return f"{database}://{host}", path.strip("/").replace("/", ".") if host else path
        case scheme:
            return f"{scheme}://{host}", path.lstrip("/")
    return named.get_namespace(), named.get_name()
