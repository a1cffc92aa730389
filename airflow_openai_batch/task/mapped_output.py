"""Whether the tasks of one mapping would write to one file, each over the results of the others.

Known from the Dag and what it is mapped over, so a retry or a clear finds the same as the first try: nothing is
remembered that could be out of date. What only rendering could tell is not judged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.sql import SqlTable

_SAME = frozenset(
    {
        *("ds", "ds_nodash", "ts", "ts_nodash", "ts_nodash_with_tz", "run_id", "dag", "dag_run", "logical_date"),
        *("data_interval_start", "data_interval_end", "partition_key", "partition_date", "triggering_asset_events"),
        *("prev_start_date_success", "prev_end_date_success", "prev_data_interval_start_success"),
        *("prev_data_interval_end_success", "conf", "var", "conn", "params", "inlets", "outlets", "macros"),
    }
)
"""Names in Jinja that have one value for all tasks of a mapping. Any other, such as ``ti``, may differ."""

_CONSTANT_MACROS = frozenset({"ds_add", "ds_format"})


def check_mapped_output(context: Mapping[str, Any]) -> None:
    """Refuse an output that several tasks of the running task's mapping share.

    Args:
        context: The running task's context.

    Raises:
        OpenAIBatchFailure: With what to put into the path.
    """
    map_index = context["ti"].map_index
    if map_index is None or map_index < 0:
        return
    task = context["dag"].get_task(context["ti"].task_id)
    output, n_sharing = _shared(task, context)
    if isinstance(output, SqlTable):
        output = output.table if output.mode == "replace" or output.delete_vanished else None
    if n_sharing > 1 and isinstance(output, str) and _is_same_everywhere(task, output):
        raise OpenAIBatchFailure(
            f"output={output!r} is the same for {n_sharing:,} tasks of this mapping: each would replace the results of "
            "the others. Let the path differ, for example by {{ ti.map_index }}, or map over it. Nothing more was sent "
            "or written; clear this task when it is mended."
        )


def _shared(task: Any, context: Mapping[str, Any]) -> tuple[Any, int]:
    """Return a task's output as the Dag has it, unrendered, and how many tasks of the mapping have it."""
    expansion = task._get_specified_expand_input() if hasattr(task, "_get_specified_expand_input") else None
    output = task.partial_kwargs.get("output") if expansion is not None else task.output_uri
    if expansion is None:
        group = next(iter(task.iter_mapped_task_groups()), None)
        if group is None:
            return output, 0
        expansion = group._expand_input
        if not isinstance(output, str | SqlTable):  # an argument of the group's function, or None
            return _expanded(expansion, getattr(output, "_key", None), context)
        return output, _n_tasks(expansion.value, context)
    if getattr(task, "_expand_input_attr", "expand_input") != "expand_input":  # a function's arguments
        return output, _n_tasks(expansion.value, context)
    found, n = _expanded(expansion, "output", context)
    return (found, n) if n else (output, _n_tasks(expansion.value, context))


def _expanded(expansion: Any, key: str | None, context: Mapping[str, Any]) -> tuple[Any, int]:
    """Return the running task's own value of a mapped argument, and how many tasks have an equal one; 0: no such."""
    values = expansion.value
    own = expansion.resolve(context)[0]
    if key not in own:
        return None, 0
    if isinstance(values, Mapping):
        entries = _resolved(values[key], context)
        n_others = _n_tasks({name: value for name, value in values.items() if name != key}, context)
        return own[key], sum(entry == own[key] for entry in entries) * n_others
    entries = [_resolved(entry, context) for entry in _resolved(values, context)]
    return own[key], sum(entry.get(key) == own[key] for entry in entries)


def _n_tasks(values: Any, context: Mapping[str, Any]) -> int:
    if isinstance(values, Mapping):
        return math.prod(len(_resolved(value, context)) for value in values.values())
    return len(_resolved(values, context))


def _resolved(value: Any, context: Mapping[str, Any]) -> Any:
    return value.resolve(context) if hasattr(value, "resolve") else value


def _is_same_everywhere(task: Any, template: str) -> bool:
    """Return whether a template renders to one text for all tasks of a mapping."""
    from jinja2 import TemplateError, meta

    environment = task.get_dag().get_template_env()
    try:
        names = meta.find_undeclared_variables(environment.parse(template))
    except TemplateError:  # rendering will say so
        return False
    expanded = getattr(getattr(task, "expand_input", None), "value", {})
    if not names <= _SAME or ("params" in names and "params" in expanded):
        return False
    return set(re.findall(r"\bmacros\b(?:\s*\.\s*(\w+))?", template)) <= _CONSTANT_MACROS
