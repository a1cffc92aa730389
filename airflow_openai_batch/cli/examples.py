"""The command that lists the example Dags, or copies one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_openai_batch.cli.answer import Answer, Exit
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.examples import copy_example, list_examples


def examples(arguments: Any) -> Answer:
    """List the examples; with a name, copy that one."""
    try:
        if arguments.name is not None:
            copied = copy_example(arguments.name, Path(arguments.to))
            return Answer(f"Copied to {copied}.", {"file": str(copied)})
        examples = list_examples()
    except InputError as error:
        return Answer(problem=str(error), exit=Exit.NOTHING)
    width = max(len(example.name) for example in examples)
    lines = [f"{example.name:<{width}}  {example.about}" for example in examples]
    lines += ["", "examples NAME --to FOLDER copies one."]
    return Answer("\n".join(lines), {"examples": [{"name": one.name, "about": one.about} for one in examples]})
