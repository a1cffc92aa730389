"""Asset events: a summary of a job's results for Dags that are scheduled on assets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.job.summary import money_of
from airflow_openai_batch.hooks import without_connection

if TYPE_CHECKING:
    from airflow_openai_batch.engine.model import Job
    from airflow_openai_batch.engine.results.writer import Written

_MAX_BATCHES = 100


def tell_assets(engine: Any, context: Mapping[str, Any], job: Job, written: Written) -> None:
    """Add a summary of the results to the events of the task's outlets; an alias gets the output as a new asset.

    Airflow publishes events only of tasks that succeed, so a job beyond its thresholds has none.

    Args:
        engine: The engine, for its log.
        context: The task's context.
        job: The job.
        written: The results.
    """
    from airflow.providers.common.compat.sdk import Asset, AssetAlias

    outlets = getattr(context["ti"].task, "outlets", None) or []
    uri = None if written.output is None else without_connection(written.output)
    extra = asset_extra(job, written, uri)
    for outlet in outlets:
        try:
            if not isinstance(outlet, AssetAlias):
                context["outlet_events"][outlet].extra.update(extra)
            elif uri is not None:
                context["outlet_events"][outlet].add(Asset(uri), extra=extra)
        except Exception as error:  # the rows are written: an asset that Airflow refuses must not fail the task
            engine.log.warning("The asset event of %s tells nothing of the results: %s", outlet, error)


def asset_extra(job: Job, written: Written, uri: str | None) -> dict[str, Any]:
    """Return the ``extra`` of an asset event: small, JSON types only, without content of rows.

    Args:
        job: The job.
        written: The results.
        uri: The URI of the output without a connection; None if it went through XCom.
    """
    summary = written.summary
    return {
        "uri": uri,
        "rows": written.n_rows,
        "by_status": {status.value: n for status, n in summary.by_status.items()},
        "tokens": {name: getattr(summary.usage, name) for name in summary.usage.__struct_fields__},
        **money_of(summary),
        "batches": list(summary.batch_ids[:_MAX_BATCHES]),
        "n_batches": len(summary.batch_ids),
        "job": {**{name: getattr(job.key, name) for name in job.key.__struct_fields__}, "epoch": job.epoch},
    }
