"""The example Dags: what there is, and copies of them."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import NamedTuple

from airflow_openai_batch.engine.errors import InputError


class Example(NamedTuple):
    """An example Dag."""

    name: str
    about: str
    """What it is for: the first line of its docstring."""
    file: Path


def examples_folder() -> Path:
    """Return the folder of the example Dags: the installed package has them, or the checkout at its top.

    Raises:
        InputError: They are in neither place.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "demo" / "dags_examples", package.parent / "dags_examples"):
        if (folder / "nightly_labeling.py").exists():
            return folder
    raise InputError("The example Dags are not installed; they are in the folder dags_examples of a checkout.")


def list_examples() -> list[Example]:
    """Return the examples, by name.

    Raises:
        InputError: They are not installed.
    """
    return [Example(file.stem, _about(file), file) for file in sorted(examples_folder().glob("[a-z]*.py"))]


def copy_example(name: str, folder: Path) -> Path:
    """Copy an example and return the new file.

    Args:
        name: Its name.
        folder: Where to, as the folder of your Dags.

    Raises:
        InputError: There is no such example or folder, or the file is there already.
    """
    examples = {example.name: example for example in list_examples()}
    example = examples.get(name.removesuffix(".py"))
    if example is None:
        raise InputError(f"There is no example {name!r}. There are: {', '.join(examples)}.")
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.")
    target = folder / example.file.name
    try:
        with target.open("xb") as file, example.file.open("rb") as source:
            shutil.copyfileobj(source, file)
    except FileExistsError:
        raise InputError(f"{target} is there already, and may have your changes. Nothing was copied.") from None
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from None
    return target


def _about(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ")
