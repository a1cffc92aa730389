"""What Airflow discovers about this package. Imports nothing: it is loaded by every Airflow process."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, by Airflow's provider info schema.

    The connection type ``openai`` is not listed: ``apache-airflow-providers-openai`` owns it.
    """
    return {
        "package-name": "airflow-openai-batch",
        "name": "OpenAI Batch",
        "description": "OpenAI Batch API: millions of rows answered overnight, each paid for once.",
        "versions": ["0.1.0"],
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
        "config": {
            "openai_batch": {
                "description": "Jobs of the OpenAI Batch API.",
                "options": {
                    "storage": {
                        "description": "Where jobs are kept: a path or URI that every worker reaches, for example "
                        "s3://conn@bucket/prefix. Empty: openai_batch in AIRFLOW_HOME, for executors on one machine.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://aws_default@my-bucket/openai-batch",
                        "default": "",
                    },
                    "poll_interval": {
                        "description": "Seconds between two looks at a batch.",
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": None,
                        "default": "60",
                    },
                    "first_poll_delay": {
                        "description": "Seconds before a trigger's first look. Below about 10, an event can arrive "
                        "while the worker that deferred is still leaving, and the scheduler can lose the task.",
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": None,
                        "default": "10",
                    },
                    "create_grace": {
                        "description": "Seconds after the intent to create a batch during which a batch that is "
                        "not listed may still appear. The call itself may take a third of it, and at most 60 s.",
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": None,
                        "default": "180",
                    },
                    "parallel_transfers": {
                        "description": "How many files a task uploads or downloads at once. Two batches at a time are "
                        "downloaded and read; each needs room for its files on the worker's disk.",
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": None,
                        "default": "4",
                    },
                    "xcom_max_bytes": {
                        "description": "The largest result, as JSON, that is returned through XCom.",
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": None,
                        "default": "1000000",
                    },
                },
            }
        },
    }
