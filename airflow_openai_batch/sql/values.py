"""Values of Arrow columns as drivers take them that know nothing of Arrow."""

from __future__ import annotations

import datetime
import decimal
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.requests.arrow import is_json
from airflow_openai_batch.engine.requests.values import result_json

if TYPE_CHECKING:
    import pyarrow as pa


def python_values(column: pa.Array, kept: tuple[type, ...]) -> list[Any]:
    """Return the values of a column: texts, null and those of some types as they are, anything else as its text.

    Args:
        column: The column.
        kept: The types that the driver takes.
    """
    if is_json(column.type):
        texts: list[Any] = column.storage.to_pylist()
        return texts
    return [value if value is None or isinstance(value, (str, *kept)) else _text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else result_json(value).decode()
