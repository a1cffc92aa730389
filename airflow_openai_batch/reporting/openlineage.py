"""What data catalogues and other Dags learn of a job: OpenLineage's datasets and facets, and asset events.

Where the rows came from, where the results went, and how many there are; never what is in them. OpenLineage is asked
for only when its provider calls: without it, nothing here is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from airflow_openai_batch.hooks import as_path, without_connection

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset

    from airflow_openai_batch.engine.model import Job
    from airflow_openai_batch.engine.results.writer import Written


_MOST_BATCHES = 100

_KNOWN = "_openai_batch_lineage"


class Known(NamedTuple):
    """What a task has learned of its job."""

    job: Job
    written: Written | None = None


def remember(task: Any, job: Job, written: Written | None = None) -> None:
    """Keep for OpenLineage, which asks when the task ends, what the task has learned of its job."""
    setattr(task, _KNOWN, Known(job, written))


class WithLineage:
    """An operator that OpenLineage may ask what it reads and writes."""

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any] | None:
        """Return what the operator's arguments tell."""
        return _lineage(self, None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Return what is known after the work."""
        return _lineage(self, getattr(self, _KNOWN, None))

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Return what is known of a task that failed: results beyond the thresholds were written all the same."""
        return _lineage(self, getattr(self, _KNOWN, None))


def _lineage(operator: Any, known: Known | None) -> OperatorLineage[Any, Any] | None:
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
    except ImportError:
        return None
    if known is None:
        output = getattr(operator, "output_uri", None)
        return OperatorLineage(
            inputs=[dataset(place) for place in _places(operator)],
            outputs=[dataset(str(as_path(output)))] if output else [],
        )
    from airflow_openai_batch.reporting.openlineage_facets import job_facet, output_facets, statistics

    places = known.job.sources
    n_rows = known.job.n_rows if len(places) == 1 else None
    return OperatorLineage(
        inputs=[dataset(place, inputs=statistics(n_rows)) for place in places],
        outputs=[dataset(place, **facets) for place, facets in output_facets(known.written)],
        run_facets={"openai_batch": job_facet(known.job, known.written)},
    )


def _places(operator: Any) -> Iterable[str]:
    """Return the files that the ``rows`` parameter names, as the engine will read them."""
    from airflow_openai_batch.engine.requests.sources import places_of

    rows = getattr(operator, "rows", None)
    return (str(as_path(place)) for place in places_of(getattr(rows, "value", rows)))


def dataset(place: str, **facets: Mapping[str, Any]) -> Dataset:
    """Return a file as OpenLineage names it.

    Args:
        place: Its URI, or a pattern of such.
        facets: ``facets`` of the dataset, ``inputs`` of it as an input, ``outputs`` of it as an output.
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
    """Return namespace and name of a file by OpenLineage's rules."""
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
        case scheme:
            return f"{scheme}://{host}", path.lstrip("/")
    return named.get_namespace(), named.get_name()
