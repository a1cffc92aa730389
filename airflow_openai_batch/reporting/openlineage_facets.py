"""OpenLineage facets of a job. Imported only when OpenLineage's provider calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import attr
from openlineage.client.generated.base import RunFacet
from openlineage.client.generated.input_statistics_input_dataset import InputStatisticsInputDatasetFacet
from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet
from openlineage.client.generated.schema_dataset import SchemaDatasetFacet, SchemaDatasetFacetFields

from airflow_openai_batch.engine.job.summary import money_of, summarize
from airflow_openai_batch.engine.model import model_of

if TYPE_CHECKING:
    from airflow_openai_batch.engine.model import Job
    from airflow_openai_batch.engine.results.writer import Written


_MOST_BATCHES = 100


@attr.define
class OpenAIBatchRunFacet(RunFacet):
    """The status of a job of the Batch API, in numbers and ids."""

    endpoint: str
    model: str | None
    epoch: int
    rounds: int
    rows: int
    rowsByStatus: dict[str, int]
    errors: list[dict[str, Any]]
    """Number of rows by status and error code."""
    usage: dict[str, int]
    cost: dict[str, Any]
    """In US dollars ``cost``, ``cost_of_bad_rows``, ``saved``, ``max_cost``, ``saved_by_reuse``; and the numbers of
    ``rows_without_price`` and ``reused_rows``."""
    batches: list[str]


def job_facet(job: Job, written: Written | None) -> OpenAIBatchRunFacet:
    """Return the run facet of a job."""
    summary = summarize(job) if written is None else written.summary
    errors = () if written is None else written.errors
    usage = summary.usage
    return OpenAIBatchRunFacet(
        endpoint=job.spec.endpoint,
        model=model_of(job.spec),
        epoch=job.epoch,
        rounds=summary.rounds,
        rows=job.n_rows,
        rowsByStatus={status.value: n for status, n in summary.by_status.items()},
        errors=[{"status": error.status, "code": error.code, "rows": error.n} for error in errors],
        usage={name.removesuffix("_tokens"): getattr(usage, name) for name in usage.__struct_fields__},
        cost=money_of(summary),
        batches=list(summary.batch_ids[:_MOST_BATCHES]),
    )


def statistics(n_rows: int | None) -> dict[str, Any]:
    """Return the facets of an input with so many rows; none if their number is not known."""
    return {} if n_rows is None else {"inputStatistics": InputStatisticsInputDatasetFacet(rowCount=n_rows, fileCount=1)}


def output_facets(written: Written | None) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yield the URI of each file of the results, with its facets for ``dataset``."""
    if written is None or written.output is None:
        return
    columns = SchemaDatasetFacet(fields=[SchemaDatasetFacetFields(name=name) for name in written.columns])
    yield written.output, {"facets": {"schema": columns}, "outputs": _lines(written.n_rows)}
    if written.dead_letter is not None:
        yield written.dead_letter, {"outputs": _lines(written.n_dead_letter)}


def _lines(n: int) -> dict[str, Any]:
    return {"outputStatistics": OutputStatisticsOutputDatasetFacet(rowCount=n, fileCount=1)}
