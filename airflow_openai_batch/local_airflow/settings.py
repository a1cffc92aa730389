"""How a local Airflow is set up: small, everybody an admin, on loopback ports, and independent of what is around it."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

TRIGGERER_LOST_AFTER_S = 6
"""With `QUICK`, a triggerer whose last heartbeat is older loses its triggers to the next one that looks."""
TASK_LOST_AFTER_S = 15
"""With `QUICK`, a running task whose supervisor is silent for so long is failed (or retried) by the scheduler."""
WORKER_SLOTS = 4
"""Tasks at a time, unless told otherwise; LocalExecutor forks so many workers at its start."""

_SMALL: dict[str, object] = {
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": WORKER_SLOTS,
    "CORE__LOAD_EXAMPLES": False,
    "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
    # The name server has no part in this.
    "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.2,
    # A worker that has deferred exits only at its next heartbeat, so this is also how long parking takes.
    "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
    "DAG_PROCESSOR__PARSING_PROCESSES": 1,
    # Changed files are parsed at once in any case; parsing the others again and again only takes the processor away.
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 600,
    "API__HOST": "127.0.0.1",
    "API__WORKERS": 1,
    "LOGGING__COLORED_CONSOLE_LOG": False,
    # Our polling would fill the tails that errors show.
    "LOGGING__NAMESPACE_LEVELS": "http.access=WARNING",
}
QUICK: dict[str, object] = {
    "CORE__DEFAULT_TASK_RETRY_DELAY": 1,
    "CORE__KILLED_TASK_CLEANUP_TIME": 5,
    "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": 1,
    "SCHEDULER__JOB_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 10,
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 5,
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": 1,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": TASK_LOST_AFTER_S,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 2,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": TRIGGERER_LOST_AFTER_S,
    "DAG_PROCESSOR__REFRESH_INTERVAL": 5,
    "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": 1,
}
"""What makes an Airflow notice within seconds that something has died."""
# Settings of another Airflow, keys, and where the example Dags read and write: nothing of it may leak in.
_NOT_OURS = ("AIRFLOW", "OPENAI", "LABELING")


def environment(
    home: Path, dags_folder: Path, database_url: str, port: int, options: Mapping[str, object]
) -> dict[str, str]:
    """Return the environment of all processes of an Airflow.

    Args:
        home: AIRFLOW_HOME.
        dags_folder: Where the Dag files are.
        database_url: The metadata database, as SQLAlchemy writes it.
        port: Where the API server listens.
        options: More of Airflow's options: `SECTION__KEY` to value.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    url = f"http://127.0.0.1:{port}"
    options = {
        **_SMALL,
        "CORE__DAGS_FOLDER": dags_folder,
        "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "DATABASE__SQL_ALCHEMY_CONN": database_url,
        "API__PORT": port,
        "API__SECRET_KEY": secrets.token_hex(32),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        # Workers find the execution API through these, not through the port.
        "API__BASE_URL": url,
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        **options,
    }
    env |= {f"AIRFLOW__{name}": str(value) for name, value in options.items()}
    env |= {"AIRFLOW_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
    # Many processes import Airflow; without compiled modules each takes three times as long.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    # The triggerer imports triggers by name, so helpers beside the Dags must be importable everywhere.
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(dags_folder), env.get("PYTHONPATH")]))
    return env
