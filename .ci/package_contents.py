"""Look for everything that the installed package promises. Runs where nothing but the wheel and pytest is installed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import entry_points, version
from importlib.resources import files
from pathlib import Path

PACKAGE = "airflow_openai_batch"
PUBLIC = {
    "operators": (
        "OpenAIBatchOperator",
        "OpenAIBatchSubmitOperator",
        "OpenAIBatchResultsOperator",
        "OpenAIBatchPlanOperator",
        "OpenAIBatchCleanupOperator",
    ),
    "sensors": ("OpenAIBatchSensor",),
    "triggers": ("OpenAIBatchTrigger",),
    "hooks": ("OpenAIBatchHook",),
    "decorators": ("openai_batch_task",),
    "options": ("CsvFile", "FinishBy", "Reuse"),
    "sql": ("SqlQuery", "SqlTable"),
    "notifications": ("job_message", "late_text", "reason_of"),
    "exceptions": ("OpenAIBatchError", "OpenAIBatchFailure"),
    "emulator": ("Emulator", "Rule"),
}


def main() -> None:
    """Look, and print what was found."""
    home = Path(str(files(PACKAGE)))
    if "site-packages" not in home.parts:
        sys.exit(f"{home} is not the installed package")
    for module, names in PUBLIC.items():
        found = importlib.import_module(f"{PACKAGE}.{module}")
        missing = [name for name in names if not hasattr(found, name)]
        if missing:
            sys.exit(f"{PACKAGE}.{module} has no {', '.join(missing)}")
    look_at_airflow()
    examples = sorted(path.stem for path in (home / "demo" / "dags_examples").glob("[a-z]*.py"))
    static = [path.name for path in (home / "ui" / "static").iterdir()]
    if not examples or "index.html" not in static:
        sys.exit("The examples or the page are missing.")
    shows("-m", PACKAGE, "--help", word="start-over")
    shows("-m", f"{PACKAGE}.emulator", "--help", word="--answer")
    shows("-m", "pytest", "--fixtures", "-q", word="openai_batch_emulator")
    print(f"{version('airflow-openai-batch')} on Airflow {version('apache-airflow')}: operators, plugin, provider,")
    print(f"command line, fixture, {len(static)} files of the page, and the examples {', '.join(examples)}.")


def look_at_airflow() -> None:
    """Check that Airflow finds the provider and the plugin."""
    from airflow.providers_manager import ProvidersManager

    if "airflow-openai-batch" not in ProvidersManager().providers:
        sys.exit("Airflow does not know the provider.")
    (plugin,) = (point for point in entry_points(group="airflow.plugins") if point.module.startswith(PACKAGE))
    if not plugin.load().fastapi_apps:
        sys.exit("The plugin has no page.")


def shows(*arguments: str, word: str) -> None:
    """Check that a program runs and prints a word."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if word not in done.stdout:
        sys.exit(f"python {' '.join(arguments)} does not show {word}:\n{done.stdout}\n{done.stderr}")


if __name__ == "__main__":
    main()
