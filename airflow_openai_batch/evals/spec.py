"""The TOML file that says what an eval compares.

name = "ticket-topics"
golden = "golden.csv"       # .csv, .parquet or .jsonl, beside this file
endpoint = "/v1/responses"
expected = "topic"          # its column with the right answer
answer = "topic"            # the field of the answers that is compared with it
tolerance = 0.05            # by how much the candidate may be worse

[baseline]                  # a request's body, as OpenAI documents it; {column} is the row's value
model = "gpt-6-luna"
instructions = "Choose the topic of the ticket."
input = "{text}"

[candidate]
…

[judge]                     # if answers are to be judged: {answer} is what was answered
…

[schema]                    # if answers are structured: their JSON Schema, strict
…
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from airflow_openai_batch.engine.errors import InputError


class EvalSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an eval compares; see the module."""

    name: str
    golden: str
    endpoint: str
    baseline: dict[str, Any]
    candidate: dict[str, Any]
    judge: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None
    expected: str | None = None
    answer: str | None = None
    tolerance: float = 0.05
    min_score: float | None = None
    """The least score that the candidate must have, 0 to 1."""
    max_cost: float | None = None
    """The most that each prompt, and the judge, may cost, in dollars."""
    undecided: str = "fail"
    """What becomes of the build when the rows are too few to tell: ``fail`` or ``pass``."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """By what the answers are scored."""
        exact = ("exact",) if self.expected is not None else ()
        return (*exact, "judged") if self.judge is not None else exact


def read_spec(path: Path) -> tuple[EvalSpec, str]:
    """Read an eval's file.

    Args:
        path: The file. A golden set with a relative path is beside it.

    Returns:
        What it says, and a digest of it and of the golden set: the same eval goes on, another is another.

    Raises:
        InputError: It cannot be read, or says something that cannot be.
    """
    try:
        spec = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), EvalSpec)
    except (OSError, UnicodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{path} is no eval: {error}") from None
    _check(spec, path)
    golden = path.parent / spec.golden
    try:
        content = golden.read_bytes()
    except OSError as error:
        raise InputError(f"golden = {spec.golden!r} in {path} cannot be read: {error}") from None
    settings = msgspec.json.encode(msgspec.structs.replace(spec, golden=""), order="sorted")
    digest = hashlib.sha256(settings + content).hexdigest()[:12]
    return msgspec.structs.replace(spec, golden=str(golden)), digest


def _check(spec: EvalSpec, path: Path) -> None:
    fields = (spec.schema or {}).get("properties", {})
    problems = [
        ("name must not be empty", not spec.name.strip()),
        ("give expected, a [judge], or both: nothing else scores the answers", not spec.metrics),
        ("tolerance must be between 0 and 1", not 0 <= spec.tolerance <= 1),
        ("min_score must be between 0 and 1", spec.min_score is not None and not 0 <= spec.min_score <= 1),
        ('undecided must be "fail" or "pass"', spec.undecided not in ("fail", "pass")),
        (f"answer = {spec.answer!r} is no property of [schema]", spec.answer is not None and spec.answer not in fields),
        ("[judge] must use {answer}", spec.judge is not None and "{answer" not in str(spec.judge)),
        ("[baseline] and [candidate] are the same", spec.baseline == spec.candidate),
    ]
    if wrong := [text for text, is_wrong in problems if is_wrong]:
        raise InputError(f"{path}: {'; '.join(wrong)}.")
