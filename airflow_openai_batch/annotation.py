"""From result rows to tools in which people annotate, and to the training data of a fine-tuning. Pure functions.

A row is a dict as the results have it: input columns, ``custom_id``, ``status``, ``model``, the fields of the answer.
Ask for a confidence in the response model; what is doubtful, or has no good answer, goes to a person (``split``).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from airflow_openai_batch.engine.errors import InputError

Row = Mapping[str, Any]

_SUCCEEDED = "succeeded"

_COLUMN = re.compile(r"\{([A-Za-z_]\w*)\}")


def is_doubtful(row: Row, *, confidence: str = "confidence", threshold: float = 0.8) -> bool:
    """Return whether a person should look at a row: it has no good answer, or one that the model is not sure of.

    Args:
        row: A result row.
        confidence: The column with the confidence, 0 to 1.
        threshold: The least confidence that needs no person.

    Raises:
        InputError: There is no such column, or its value is no confidence.
    """
    if row["status"] != _SUCCEEDED:
        return True
    return _score(row, confidence) < threshold


def split(
    rows: Iterable[Row], *, confidence: str = "confidence", threshold: float = 0.8
) -> tuple[list[Row], list[Row]]:
    """Return the rows that stand as they are, and those for a person; see ``is_doubtful``.

    Args:
        rows: Result rows.
        confidence: The column with the confidence, 0 to 1.
        threshold: The least confidence that needs no person.

    Raises:
        InputError: There is no such column, or a value in it is no confidence.
    """
    sure: list[Row] = []
    doubtful: list[Row] = []
    for row in rows:
        (doubtful if is_doubtful(row, confidence=confidence, threshold=threshold) else sure).append(row)
    return sure, doubtful


def agreement(output: str) -> tuple[str, float]:
    """Return the answer that most of several choices give, and their share as its confidence.

    Args:
        output: The column ``output`` of a Chat Completions request with ``n`` above 1: a JSON array of texts.

    Raises:
        InputError: It is something else.
    """
    try:
        choices = json.loads(output)
    except ValueError:
        choices = None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise InputError("agreement needs the output of a request with n above 1: a JSON array of texts.")
    answer, n = Counter(choice.strip() for choice in choices).most_common(1)[0]
    return answer, n / len(choices)


def label_studio_tasks(
    rows: Iterable[Row],
    *,
    label: str,
    data: Sequence[str],
    confidence: str | None = "confidence",
    from_name: str = "label",
    to_name: str = "text",
) -> Iterator[dict[str, Any]]:
    """Yield tasks with predictions for Label Studio; a list of them is the file to import.

    Label Studio's guide, "Import pre-annotated data": ``data`` and ``predictions``, whose ``result`` names the tags of
    the labeling configuration; by the ``score`` people are shown what is least sure first. A row without a good answer
    is a task without a prediction.

    Args:
        rows: Result rows.
        label: The column with the choice, or with a list of choices.
        data: The columns that people see; the configuration refers to them as ``$column``.
        confidence: The column with the confidence, 0 to 1; None for no score.
        from_name: The name of the tag ``<Choices>``.
        to_name: The name of the tag that it is about, as ``<Text>``.

    Raises:
        InputError: A row lacks a column.
    """
    for row in rows:
        task: dict[str, Any] = {"data": {**_picked(row, data), "custom_id": row["custom_id"]}}
        if row["status"] == _SUCCEEDED:
            chosen = _value(row, label)
            choices = [str(choice) for choice in chosen] if isinstance(chosen, list | tuple) else [str(chosen)]
            result = {"from_name": from_name, "to_name": to_name, "type": "choices", "value": {"choices": choices}}
            prediction: dict[str, Any] = {"model_version": str(row["model"]), "result": [result]}
            if confidence is not None:
                prediction["score"] = _score(row, confidence)
            task["predictions"] = [prediction]
        yield task


def argilla_records(
    rows: Iterable[Row],
    *,
    label: str,
    fields: Sequence[str],
    confidence: str | None = "confidence",
    question: str = "label",
    metadata: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Yield records with suggestions for Argilla; a JSON list of them is what ``dataset.records.from_json`` reads.

    The form is that of ``rg.Record.to_dict`` in Argilla 2. A row without a good answer has no suggestion.

    Args:
        rows: Result rows. Their ``custom_id`` is the record's id, so that a second import updates the records.
        label: The column with the label, or with a list of labels.
        fields: The columns that people see.
        confidence: The column with the confidence, 0 to 1; None for no score.
        question: The name of the question in the data set.
        metadata: The columns by which people filter.

    Raises:
        InputError: A row lacks a column.
    """
    for row in rows:
        record: dict[str, Any] = {
            "id": str(row["custom_id"]),
            "fields": {name: str(value) for name, value in _picked(row, fields).items()},
            "metadata": _picked(row, metadata),
            "suggestions": {},
            "responses": {},
            "vectors": {},
        }
        if row["status"] == _SUCCEEDED:
            score = _score(row, confidence) if confidence is not None else None
            record["suggestions"][question] = {"value": _value(row, label), "score": score, "agent": str(row["model"])}
        yield record


def fine_tuning_examples(
    rows: Iterable[Row], *, user: str, assistant: str, system: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield training examples for OpenAI's supervised fine-tuning; one of them is a line of the JSONL file.

    OpenAI's guide, "Supervised fine-tuning": ``{"messages": […]}`` as in Chat Completions, the last one of the
    assistant; at least ten examples. Rows without a good answer are left out: leave out, too, what nobody is sure of.

    Args:
        rows: Result rows, or rows that people have corrected; without ``status`` a row counts as good.
        user: The user's message, with ``{column}`` in it.
        assistant: The answer, with ``{column}`` in it.
        system: The system's message; None for none.

    Raises:
        InputError: A row lacks a column, or its message would be blank.
    """
    opening = [{"role": "system", "content": system}] if system is not None else []
    for number, row in enumerate(rows):
        if row.get("status", _SUCCEEDED) != _SUCCEEDED:
            continue
        messages = [*opening]
        for role, template in (("user", user), ("assistant", assistant)):
            content = _COLUMN.sub(lambda match, row=row: _shown(_value(row, match[1])), template)  # type: ignore[misc]
            if not content.strip():
                raise InputError(f"Row {number}: the message of the {role} would be blank.")
            messages.append({"role": role, "content": content})
        yield {"messages": messages}


def _picked(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name: _value(row, name) for name in names}


def _value(row: Row, name: str) -> Any:
    if name not in row:
        raise InputError(f"The rows have no column {name!r}. Columns: {', '.join(row)}.")
    return row[name]


def _score(row: Row, name: str) -> float:
    value = _value(row, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(
            f"{name} of the row {row['custom_id']} must be between 0 and 1, is {value!r:.40}. Say so in the response "
            "model: confidence: float = Field(ge=0, le=1)."
        )
    return float(value)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
