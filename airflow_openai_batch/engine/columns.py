"""The columns of the result table: the input columns, the fixed ones, and the fields of a structured answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Job, Status
from airflow_openai_batch.engine.outcomes import part_schema
from airflow_openai_batch.engine.schema import ResponseSchema
from airflow_openai_batch.engine.store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Layout:
    """Where each column of a result row comes from.

    A name belongs to the fixed columns first, then to the input, then to the answer's fields: an input column that
    would hide a fixed one becomes ``input_<name>``, a field that would hide either becomes ``output_<name>``.
    """

    schema: pa.Schema
    inputs: pa.Schema
    fields: dict[str, Any]
    """Name of a field in the answer to its Arrow type."""

    def arrange(self, rows: pa.RecordBatch, outcomes: pa.RecordBatch) -> pa.RecordBatch:
        """Put the columns of some rows and their outcomes side by side."""
        import pyarrow as pa

        arrays = []
        for field in self.inputs:
            at = rows.schema.get_field_index(field.name)
            # Unsafe: what was paid for must not be lost over a whole number that a column of fractions rounds.
            column = rows.column(at).cast(field.type, safe=False) if at >= 0 else pa.nulls(rows.num_rows, field.type)
            arrays.append(column)
        arrays += [outcomes.column(name) for name in RESULT_COLUMNS]
        arrays += self._field_columns(outcomes)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _field_columns(self, outcomes: pa.RecordBatch) -> list[pa.Array]:

        if not self.fields:
            return []
        answers = [
            msgspec.json.decode(output) if status == Status.SUCCEEDED.value else {}
            for output, status in zip(
                outcomes.column("output").to_pylist(), outcomes.column("status").to_pylist(), strict=True
            )
        ]
        # With n > 1 the output is an array of answers: then the fields stay empty.
        objects = [answer if isinstance(answer, dict) else {} for answer in answers]
        return [_column([_fit(o.get(name), kind) for o in objects], kind) for name, kind in self.fields.items()]


def layout_of(store: JobStore, job: Job) -> Layout:
    """Return the columns of a job's results, from its row parts, its endpoint and its schema."""
    import pyarrow as pa

    inputs = _input_schema(store, job)
    fields: dict[str, Any] = {}
    if job.spec.schema is not None:
        schema = ResponseSchema(job.spec.schema, job.spec.schema_name or "")
        fields = {name: _arrow_type(entry, job.spec.schema) for name, entry in schema.fields.items()}
    fixed = part_schema(job)
    names = set(inputs.names)
    columns = [
        pa.field(_free(f.name, "input_", {*RESULT_COLUMNS, *(names if f.name in RESULT_COLUMNS else ())}), f.type)
        for f in inputs
    ]
    columns += [fixed.field(name) for name in RESULT_COLUMNS]
    for name, kind in fields.items():
        columns.append(pa.field(_free(name, "output_", {c.name for c in columns}), kind))
    return Layout(schema=pa.schema(columns), inputs=inputs, fields=fields)


def _free(name: str, prefix: str, taken: set[str]) -> str:
    while name in taken:
        name = prefix + name
    return name


def _input_schema(store: JobStore, job: Job) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas: list[pa.Schema] = []
    for shard in job.shards:
        for name in shard.row_parts:
            with store.open(name) as file:
                schema = pq.read_schema(file).remove_metadata()
            if schema not in schemas:
                schemas.append(schema)
    try:
        return pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
    except pa.ArrowException as error:
        raise StoreError(f"The row parts in {store} do not fit together: {error}") from error


_TYPES = {"string": "large_string", "integer": "int64", "number": "float64", "boolean": "bool_"}


def _arrow_type(schema: Any, root: dict[str, Any], depth: int = 0) -> Any:
    """Return the Arrow type of a JSON Schema; what has no simple one is kept as JSON text."""
    import pyarrow as pa

    text = pa.large_string()
    if not isinstance(schema, dict) or depth > 20:
        return text
    if "$ref" in schema:
        return _arrow_type(_resolved(schema["$ref"], root), root, depth + 1)
    if "anyOf" in schema:
        options = [
            option for option in schema["anyOf"] if not (isinstance(option, dict) and option.get("type") == "null")
        ]
        return _arrow_type(options[0], root, depth + 1) if len(options) == 1 else text
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [entry for entry in kind if entry != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
    if kind == "array":
        return pa.list_(_arrow_type(schema.get("items"), root, depth + 1))
    return getattr(pa, _TYPES[kind])() if kind in _TYPES else text


def _resolved(ref: Any, root: dict[str, Any]) -> Any:
    value: Any = root
    for step in str(ref).removeprefix("#/").split("/"):
        value = value.get(step, {}) if isinstance(value, dict) else {}
    return value


def _column(values: list[Any], kind: Any) -> pa.Array:
    """Return an Arrow column. A value that its type cannot hold stays in the output alone, and costs no other row."""
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.array([value if _holds(value, kind) else None for value in values], kind)


def _holds(value: Any, kind: Any) -> bool:
    import pyarrow as pa

    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _fit(value: Any, kind: Any) -> Any:
    """Write a value as its column wants it: JSON text where the column is text and the value is not."""
    import pyarrow as pa

    if value is None:
        return None
    if pa.types.is_large_string(kind):
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if pa.types.is_list(kind):
        return [_fit(entry, kind.value_type) for entry in value]
    if pa.types.is_float64(kind) and isinstance(value, int):
        return float(value) if abs(value) < 10**300 else None
    if pa.types.is_int64(kind):
        # A JSON integer has no bounds; one beyond the column's stays in the output alone.
        return int(value) if abs(value) < 2**63 else None
    return value
