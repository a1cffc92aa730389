"""The options of the section ``[openai_batch]``: names, defaults and descriptions, for the code and for Airflow's docs.

Imports nothing of Airflow until an option is read, as every Airflow process loads the provider's description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

SECTION = "openai_batch"

T = TypeVar("T", str, int, float, bool)


@dataclass(frozen=True)
class Option(Generic[T]):
    """An option. The type of its default is its type."""

    name: str
    default: T
    description: str
    example: str | None = None
    version_added: str = "0.1.0"

    def get(self) -> T:
        """Return the value that the deployment has set, or the default."""
        from airflow.providers.common.compat.sdk import conf

        read = {str: conf.get, int: conf.getint, float: conf.getfloat, bool: conf.getboolean}[type(self.default)]
        value: T = read(SECTION, self.name, fallback=self.default)
        return value


STORAGE = Option(
    "storage",
    "",
    "Where jobs are kept: an absolute path or a URI that every worker reaches, for example s3://conn@bucket/prefix. "
    "Empty: openai_batch in AIRFLOW_HOME, for executors on one machine.",
    "s3://aws_default@my-bucket/openai-batch",
)
DEPLOYMENT = Option(
    "deployment",
    "",
    "The name of this Airflow deployment, by which its jobs are told from those of another one that shares the "
    "storage, or of which the storage is a copy. Empty: [api] base_url. Name deployments that have the same base_url "
    "or none.",
    "production",
)
POLL_INTERVAL = Option("poll_interval", 60.0, "Seconds between two looks at a batch.")
FIRST_POLL_DELAY = Option(
    "first_poll_delay",
    10.0,
    "Seconds before a trigger's first look. Below about 10, an event can arrive while the worker that deferred is "
    "still leaving, and the scheduler can lose the task.",
)
CREATE_GRACE = Option(
    "create_grace",
    180.0,
    "Seconds after the intent to create a batch during which a batch that is not listed may still appear. The call "
    "itself may take a third of it, and at most 60 s. A worker that asks synchronously (finish_by) and has died is "
    "waited for as long.",
)
PARALLEL_TRANSFERS = Option(
    "parallel_transfers",
    4,
    "How many files a task uploads or downloads at once. Two batches at a time are downloaded and read; each needs "
    "room for its files on the worker's disk.",
)
PARALLEL_WORK = Option(
    "parallel_work",
    0,
    "How many processes of a task read the answers of several batches at the same time; each further one takes some "
    "150 MB. At most parallel_transfers are used, and 1 leaves it to the task's own process. 0: two where the task "
    "may use two CPUs, else one.",
    "4",
)
XCOM_MAX_BYTES = Option("xcom_max_bytes", 1_000_000, "The largest result, as JSON, that is returned through XCom.")
PRICES = Option(
    "prices",
    "",
    "A path or URI of a JSON file with prices of models and deployments, which go before those that the package ships: "
    'for example {"my-deployment": {"input": 0.05, "output": 0.25}}, in dollars for a million tokens in a batch.',
    "s3://aws_default@my-bucket/openai-prices.json",
)
MAX_COST = Option(
    "max_cost",
    "",
    "The most that a job may cost, in US dollars, unless its task says another amount (`max_cost`). Empty: no cap.",
    "250",
)
CSV_FORMULAS = Option(
    "csv_formulas",
    "keep",
    "What to do with texts in CSV results that a spreadsheet would run as formulas, as they begin with =, +, -, @, "
    "a tab or a carriage return (and are no number): keep writes them as they are, and the log says how many there "
    "are; quote puts an apostrophe before them. Parquet and JSONL have them as they are in any case.",
    "quote",
)
FILES_EXPIRE_AFTER = Option(
    "files_expire_after",
    "",
    "How long OpenAI keeps the files of a job, each counted from its creation, unless its task says otherwise "
    "(`files_expire_after`): seconds, or a text such as 7d or 36h; at least 2 hours more than the task's deadline, at "
    "most 30 days. Empty: OpenAI's own 30 days.",
    "7d",
)
DELETE_FILES = Option(
    "delete_files",
    False,
    "Whether the files of a job at OpenAI are deleted once its results are written, unless its task says otherwise "
    "(`delete_files`).",
    "True",
)

OPTIONS: tuple[Option[Any], ...] = (
    STORAGE,
    DEPLOYMENT,
    POLL_INTERVAL,
    FIRST_POLL_DELAY,
    CREATE_GRACE,
    PARALLEL_TRANSFERS,
    PARALLEL_WORK,
    XCOM_MAX_BYTES,
    PRICES,
    MAX_COST,
    CSV_FORMULAS,
    FILES_EXPIRE_AFTER,
    DELETE_FILES,
)


def deployment() -> str:
    """Return the name of this deployment: the option ``deployment``, or Airflow's own URL; empty if neither is set."""
    from airflow.providers.common.compat.sdk import conf

    return DEPLOYMENT.get().strip() or (conf.get("api", "base_url", fallback=None) or "").strip().rstrip("/")


def described() -> dict[str, Any]:
    """Return the section as Airflow's provider info describes it."""
    types = {str: "string", int: "integer", float: "float", bool: "boolean"}
    return {
        SECTION: {
            "description": "Jobs of the OpenAI Batch API.",
            "options": {
                option.name: {
                    "description": option.description,
                    "version_added": option.version_added,
                    "type": types[type(option.default)],
                    "example": option.example,
                    "default": f"{option.default:g}" if isinstance(option.default, float) else str(option.default),
                }
                for option in OPTIONS
            },
        }
    }
