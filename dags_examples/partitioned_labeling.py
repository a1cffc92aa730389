"""Label many files a night: one job for each, side by side, and one data set of results.

Each file is a partition of its own: submitted, waited for and written by itself, so one bad file spoils no other. The
last task checks that the result files are one data set with every row in it, and says so in `_manifest.json`.

When a partition is red, mend the cause and clear that one map index, with its downstream tasks: the others are not
touched, and nothing is paid twice. Do not clear `partitions` for that: a job belongs to its map index, and if the list
of files has changed, the same index means another file.
"""

import os
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import ObjectStoragePath, dag, task, task_group
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.operators import OpenAIBatchResultsOperator, OpenAIBatchSubmitOperator
from airflow_openai_batch.sensors import OpenAIBatchSensor

# [START partitioned_labeling]
# A folder or bucket that all workers reach, e.g. s3://aws_default@lake/labeling.
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.join(
    os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow"), "labeling"
)
FILES = FOLDER + "/packages/{{ ds }}"
LABELS = FOLDER + "/package_labels/{{ ds }}"

# Airflow maps over 1,024 at most ([core] max_map_length): with more files, several make one partition.
MAX_PARTITIONS = 1000
# So many partitions are sent at a time, and as many written. Not a limit of `wait`: Airflow 3.3 counts tasks that only
# wait as active too, and a partition whose turn to wait has not come is not fetched either.
AT_ONCE = 8
# Airflow shows a partition by the name of its result file, not by its number.
NAME = "{{ ti.xcom_pull(task_ids='partitions')[ti.map_index]['output'].split('/')[-1] }}"


class PackageLabel(BaseModel):
    """The answer for one row."""

    topic: Literal["Database", "Internet", "Security", "Software Development", "System", "Text Processing", "Other"]
    confidence: float


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2},  # safe: a retry takes the same batches up again, nothing is paid twice
    tags=["openai_batch"],
)
def partitioned_labeling() -> None:
    """Label the packages in the night's files by topic."""

    @task
    def files(folder: str) -> int:
        return write_files(folder)  # whatever writes your files, a Spark job for example

    @task
    def partitions(folder: str, labels: str) -> list[dict[str, Any]]:
        """Name for each partition the files with its rows, and the file for its results."""
        found = [str(path) for path in sorted(ObjectStoragePath(folder).glob("*.parquet"), key=str)]
        with_rows = [path for path, n in zip(found, row_counts(found), strict=True) if n]
        if not with_rows:
            raise AirflowSkipException(f"No rows in {folder} ({len(found)} files): nothing to label.")
        n = -(-len(with_rows) // MAX_PARTITIONS)  # files in a partition
        groups = [with_rows[first : first + n] for first in range(0, len(with_rows), n)]
        return [{"rows": group, "output": f"{labels}/part-{i:05}.parquet"} for i, group in enumerate(groups)]

    # A task group, not three mapped tasks: in it each index goes its own way. Between mapped tasks all indexes of one
    # would have to succeed before any of the next could begin.
    @task_group
    def partition(rows: Any, output: Any) -> Any:
        submit = OpenAIBatchSubmitOperator(
            task_id="submit",
            rows=rows,
            endpoint="/v1/responses",
            body={
                "model": "gpt-6-luna",
                "instructions": "Choose the topic of this Python package.",
                "input": "{name}: {summary}\n\n{description}",
            },
            response_model=PackageLabel,
            custom_id="{name}",
            max_bad_ratio=0.02,  # of each partition: more rows without a good label, and this one is red
            max_active_tis_per_dagrun=AT_ONCE,
            map_index_template=NAME,
        )
        wait = OpenAIBatchSensor(task_id="wait", job=submit.output, map_index_template=NAME)
        results = OpenAIBatchResultsOperator(
            task_id="results",
            job=submit.output,
            output=output,
            max_active_tis_per_dagrun=AT_ONCE,
            map_index_template=NAME,
        )
        wait >> results
        return results.output

    @task
    def collect(listed: list[dict[str, Any]], manifests: list[dict[str, Any]], labels: str) -> dict[str, Any]:
        """Check the result files together and write the manifest. It is there only if all of them are good."""
        n_rows = sum(row_counts([path for partition in listed for path in partition["rows"]]))
        return write_manifest(labels, list(manifests), n_rows)

    listed = partitions(FILES, LABELS)
    files(FILES) >> listed
    collect(listed, partition.expand_kwargs(listed), LABELS)


# [END partitioned_labeling]


def write_files(folder: str, rows_per_file: int = 50) -> int:
    """Write the rows as Parquet files of some rows each and return how many files there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = ObjectStoragePath(folder)
    path.mkdir(parents=True, exist_ok=True)
    texts = pa.list_(pa.string())
    # Given, not guessed from each file's rows: a file whose lists are all empty would have other types than the rest.
    types = dict.fromkeys(("name", "summary", "description"), pa.string())
    schema = pa.schema([*types.items(), ("topics", texts), ("frameworks", texts)])
    rows = package_rows()
    n_files = 0
    while some := list(islice(rows, rows_per_file)):
        with (path / f"packages-{n_files:05}.parquet").open("wb") as file:
            pq.write_table(pa.Table.from_pylist(some, schema), file)
        n_files += 1
    return n_files


def row_counts(paths: list[str]) -> list[int]:
    """Return how many rows Parquet files have, from their footers, several at once: object storage answers slowly."""
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow.parquet as pq

    def count(path: str) -> int:
        with ObjectStoragePath(path).open("rb") as file:
            return pq.read_metadata(file).num_rows

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(count, paths))


def write_manifest(folder: str, manifests: list[dict[str, Any]], n_rows: int) -> dict[str, Any]:
    """Check that the files in a folder are one data set with so many rows, and write its manifest beside them."""
    import json
    from collections import Counter

    import pyarrow.dataset as ds

    written = sorted((ObjectStoragePath(manifest["output"]) for manifest in manifests), key=str)
    others = {path.name for path in ObjectStoragePath(folder).glob("*.parquet")} - {path.name for path in written}
    if others:
        raise AirflowFailException(f"Files of another run are in {folder}, remove them: {', '.join(sorted(others))}")
    dataset = ds.dataset([path.path for path in written], filesystem=written[0].fs, format="parquet")
    for fragment in dataset.get_fragments():
        if fragment.physical_schema != dataset.schema:
            raise AirflowFailException(f"{fragment.path} has other columns or types than {written[0]}.")
    if dataset.count_rows() != n_rows:
        raise AirflowFailException(f"{n_rows:,} rows went in, {dataset.count_rows():,} came out.")
    total: dict[str, Counter[str]] = {"by_status": Counter(), "tokens": Counter()}
    for manifest in manifests:
        for name, counts in total.items():
            counts.update(manifest[name])
    totals = {name: dict(counts) for name, counts in total.items()}
    told = {"rows": n_rows, **totals, "files": [path.name for path in written]}
    # Readers of the folder skip names that begin with an underscore.
    (ObjectStoragePath(folder) / "_manifest.json").write_text(json.dumps(told, indent=1))
    return told


partitioned_labeling()
