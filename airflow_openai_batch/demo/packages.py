"""Rows for the example Dags: the descriptions of the Python packages that are installed beside Airflow.

Real texts that need no download, with a truth to compare labels with: the topics that their authors chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from typing import Any

DESCRIPTION_CHARS = 1_500


def package_rows() -> Iterator[dict[str, Any]]:
    """Yield a row for each installed Python package, by name.

    A row has `name`, `summary`, `description` (its beginning), `topics` and `frameworks` (the classifiers that its
    authors chose, at their top level; empty lists if they chose none).
    """
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        if distribution.name:
            # The first on the path is the one that Python imports.
            found.setdefault(_normalized(distribution.name), distribution)
    for name in sorted(found):
        yield _row(name, found[name])


def write_package_rows(uri: str) -> int:
    """Write the rows as a Parquet file and return how many there are.

    Args:
        uri: Path or URI of the file, whatever Airflow's object storage understands.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from airflow.sdk import ObjectStoragePath

    path: Any = ObjectStoragePath(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(package_rows()))
    with path.open("wb") as file:
        pq.write_table(table, file)
    return int(table.num_rows)


def compare_with_topics(uri: str) -> dict[str, Any]:
    """Compare the column `topic` of a result file with the topics that the packages' authors chose.

    Args:
        uri: Path or URI of the Parquet file.

    Returns:
        How many packages have a topic to compare with, in how many the label is one of them, and the same for always
        answering the most frequent topic, which is what any labeler has to beat.
    """
    import pyarrow.parquet as pq
    from airflow.sdk import ObjectStoragePath

    path: Any = ObjectStoragePath(uri)
    with path.open("rb") as file:
        labeled = pq.read_table(file, columns=["topic", "topics"]).to_pylist()
    known = [row for row in labeled if row["topics"] and row["topic"]]
    frequent = _most_frequent([topic for row in known for topic in row["topics"]])
    n_right = sum(row["topic"] in row["topics"] for row in known)
    return {
        "rows": len(labeled),
        "rows_with_truth": len(known),
        "right": n_right,
        "accuracy": round(n_right / len(known), 3) if known else None,
        "most_frequent_topic": frequent,
        "accuracy_of_most_frequent": round(sum(frequent in row["topics"] for row in known) / len(known), 3)
        if known
        else None,
    }


def _row(name: str, distribution: Distribution) -> dict[str, Any]:
    metadata = distribution.metadata
    # The description is the body of the metadata; in files before version 2.1 it is a header.
    description = metadata.json.get("description") or ""
    classifiers = metadata.get_all("Classifier") or []
    return {
        "name": name,
        "summary": str(metadata.json.get("summary") or "").strip(),
        "description": str(description)[:DESCRIPTION_CHARS],
        "topics": _top_level("Topic", classifiers),
        "frameworks": _top_level("Framework", classifiers),
    }


def _top_level(kind: str, classifiers: list[str]) -> list[str]:
    return sorted({parts[1] for c in classifiers if (parts := c.split(" :: "))[0] == kind and len(parts) > 1})


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _most_frequent(topics: list[str]) -> str | None:
    return max(sorted(set(topics)), key=topics.count, default=None)
