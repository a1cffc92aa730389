"""Imports: what a Dag file pays for this package each time that it is parsed.

    python benchmarks/imports.py

Airflow parses every Dag file again and again, in processes that hold `airflow.sdk`. Measured is what comes on top of
that, in a fresh interpreter with compiled modules at hand. The example Dags are imported too, beside a Dag of the
same shape with Airflow's own operators, and must not load openai, pandas, pyarrow or httpx2; the program fails if they
do.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from measure import Benchmark
from sample import Case
from summary import Goal

HEAVY = ("openai", "pandas", "pyarrow", "httpx2")
EXAMPLES = sorted((Path(__file__).parents[1] / "dags_examples").glob("[a-z]*.py"))
OURS = ("operators", "sensors", "decorators")
AIRFLOWS = (
    "airflow.providers.common.compat.sdk",
    *(f"airflow.sdk.bases.{name}" for name in ("decorator", "hook", "operatorlink", "sensor")),
)
"""What an operator, a sensor and a decorator load of Airflow that a Dag file alone does not."""


def _ms(title: str, method: str, limit: float) -> Goal:
    return Goal(title, lambda median: median("imports", method, "seconds") * 1000, limit, unit="ms")


GOALS: tuple[Goal, ...] = (
    _ms("Import of operators, sensors, decorators on top of airflow.sdk", "operators", 5),
    _ms("Import with triggers and hook", "everything", 15),
)

bench = Benchmark(__file__, __doc__, GOALS)
group = bench.group("imports", "on top of airflow.sdk", rows=1, quick_rows=1, unit="")
examples = bench.group(
    "examples", "example Dags, on top of airflow.sdk", rows=1, quick_rows=1, unit="", is_compared=False
)


def prepare(case: Case) -> None:
    """Let the interpreter keep what it compiles."""
    _home(case)
    for name in (*(f"airflow_openai_batch.{name}" for name in (*OURS, "triggers", "hooks")), "pyarrow.parquet"):
        importlib.import_module(name)
    importlib.import_module("airflow.providers.openai.operators.openai")
    importlib.import_module("pandas")


group.prepare = prepare


def timed_import(case: Case, *names: str) -> None:
    """Import modules, as the Dag processor does: it holds airflow.sdk already."""
    _home(case)
    with case.timed():
        for name in names:
            importlib.import_module(name)
    case.check(imported=True)
    case.note(modules=len(sys.modules))


def _home(case: Case) -> None:
    os.environ["AIRFLOW_HOME"] = str(case.work)
    import airflow.sdk

    for name in ("DAG", "BaseOperator", "task", "dag"):  # its names are loaded when they are asked for
        getattr(airflow.sdk, name)


def forbid_heavy(who: str) -> None:
    """Fail if something was loaded that a Dag file must not pay for."""
    if heavy := sorted(set(HEAVY) & set(sys.modules)):
        sys.exit(f"{who} loads {', '.join(heavy)}")


@group.method("operators", "this package: operators, sensors, decorators")
def operators(case: Case) -> None:
    timed_import(case, *(f"airflow_openai_batch.{name}" for name in OURS))
    forbid_heavy("The package")


@group.method("everything", "this package: with triggers and hook")
def everything(case: Case) -> None:
    timed_import(case, *(f"airflow_openai_batch.{name}" for name in (*OURS, "triggers", "hooks")))
    forbid_heavy("The package")


@group.method("bases", "limit: the base classes of Airflow that they extend")
def bases(case: Case) -> None:
    timed_import(case, *AIRFLOWS)


@group.method("trigger_base", "limit: these and BaseTrigger")
def trigger_base(case: Case) -> None:
    timed_import(case, *AIRFLOWS, "airflow.triggers.base")


@group.method("official", "apache-airflow-providers-openai: operator")
def official(case: Case) -> None:
    timed_import(case, "airflow.providers.openai.operators.openai")


@group.method("openai", "openai")
def openai(case: Case) -> None:
    timed_import(case, "openai")


@group.method("pandas", "pandas and pyarrow")
def pandas(case: Case) -> None:
    timed_import(case, "pandas", "pyarrow.parquet")


def example(case: Case, path: Path) -> None:
    """Import an example Dag."""
    _home(case)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with case.timed():
        spec.loader.exec_module(module)
    forbid_heavy(path.name)
    case.check(imported=True)


PLAIN = Path(__file__).with_name("plain_dag.py")
examples.method("plain", "limit: nightly_labeling.py with Airflow's own operators")(lambda case: example(case, PLAIN))
for _path in EXAMPLES:
    examples.method(_path.stem, _path.name)(lambda case, path=_path: example(case, path))  # type: ignore[misc]


if __name__ == "__main__":
    sys.exit(bench.main())
