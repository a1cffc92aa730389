"""What Airflow discovers about this package. Imports next to nothing: every Airflow process loads it."""

from __future__ import annotations

from typing import Any

from airflow_openai_batch import __version__, settings


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, by Airflow's provider info schema.

    The connection type ``openai`` is not listed: ``apache-airflow-providers-openai`` owns it.
    """
    return {
        "package-name": "airflow-openai-batch",
        "name": "OpenAI Batch",
        "description": "OpenAI Batch API: millions of rows answered overnight, each paid for once.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "OpenAI Batch API",
                "external-doc-url": "https://platform.openai.com/docs/guides/batch",
                "tags": ["ai"],
            }
        ],
        "operators": [
            {"integration-name": "OpenAI Batch API", "python-modules": ["airflow_openai_batch.operators"]},
        ],
        "sensors": [{"integration-name": "OpenAI Batch API", "python-modules": ["airflow_openai_batch.sensors"]}],
        "hooks": [{"integration-name": "OpenAI Batch API", "python-modules": ["airflow_openai_batch.hooks"]}],
        "triggers": [{"integration-name": "OpenAI Batch API", "python-modules": ["airflow_openai_batch.triggers"]}],
        "task-decorators": [
            {"name": "openai_batch", "class-name": "airflow_openai_batch.decorators.openai_batch_task"},
        ],
        "extra-links": [
            "airflow_openai_batch.links.OpenAIBatchLink",
            "airflow_openai_batch.links.OpenAIInputFileLink",
            "airflow_openai_batch.links.OpenAIOutputFileLink",
            "airflow_openai_batch.links.OpenAIErrorFileLink",
        ],
        "config": settings.described(),
    }
