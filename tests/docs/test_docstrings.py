"""Public callables with three or more parameters document each of them under ``Args``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "airflow_openai_batch"
MOST_WITHOUT_ARGS = 2

UNDOCUMENTED = {
    "airflow_openai_batch/demo/night.py",
    "airflow_openai_batch/demo/outcome.py",
    "airflow_openai_batch/engine/job/planner.py",
    "airflow_openai_batch/engine/job/retry.py",
    "airflow_openai_batch/engine/job/state_machine.py",
    "airflow_openai_batch/engine/job/summary.py",
    "airflow_openai_batch/sensors.py",
    "airflow_openai_batch/task/job.py",
}
"""Files that still lack sections. The list may only become shorter."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(body: list[ast.stmt], owner: ast.ClassDef | None = None) -> Iterator[tuple[Function, str]]:
    """Yield public functions, methods and constructors, each with the docstring that documents its parameters."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, node)
        elif isinstance(node, Function):
            if owner is not None and node.name == "__init__":
                yield node, ast.get_docstring(owner) or ""
            elif not node.name.startswith("_"):
                yield node, ast.get_docstring(node) or ""


def parameters(function: Function, *, is_method: bool) -> list[str]:
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list)
    if is_method and not is_static:
        positional = positional[1:]
    variadic = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    names = [arg.arg for arg in (*positional, *args.kwonlyargs, *variadic)]
    return [name for name in names if name != "kwargs"]  # passed on to a base class of Airflow, which documents them


def documented(docstring: str) -> set[str]:
    """Return the names in the ``Args`` section of a docstring in Google's style."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    return set(re.findall(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?:", section[1], re.MULTILINE)) if section else set()


def undocumented(path: Path) -> list[str]:
    """Return ``file:line: name lacks …`` for each public callable of a file that lacks parameters under ``Args``."""
    tree = ast.parse(path.read_text())
    methods = {id(node) for owner in ast.walk(tree) if isinstance(owner, ast.ClassDef) for node in owner.body}
    problems = []
    for function, docstring in public_functions(tree.body):
        names = parameters(function, is_method=id(function) in methods)
        lacking = [name for name in names if name not in documented(docstring)]
        if len(names) > MOST_WITHOUT_ARGS and lacking:
            problems.append(f"{path.relative_to(ROOT)}:{function.lineno}: {function.name} lacks {', '.join(lacking)}")
    return problems


def public_files() -> list[Path]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [path for path in paths if not any(re.match("_(?!_)", part) for part in path.relative_to(PACKAGE).parts)]


def test_public_callables_document_their_arguments() -> None:
    problems = [problem for path in public_files() for problem in undocumented(path)]
    new = [problem for problem in problems if problem.partition(":")[0] not in UNDOCUMENTED]
    assert not new, "\n".join(["Without Args in the docstring:", *new])


def test_the_list_of_undocumented_files_only_shrinks() -> None:
    still = {str(path.relative_to(ROOT)) for path in public_files() if undocumented(path)}
    assert not UNDOCUMENTED - still, "Documented by now, or gone: take them off the list."


@pytest.mark.parametrize(
    ("source", "n_problems"),
    [
        ("def f(a, b): ...", 0),
        ("def f(a, b, c): ...", 1),
        ("def _f(a, b, c): ...", 0),
        ("class C:\n    def f(self, a, b): ...", 0),
        ("class C:\n    def f(self, a, b, *, c): ...", 1),
        ("class _C:\n    def f(self, a, b, c): ...", 0),
        ('def f(a, b, c):\n    """F.\n\n    Args:\n        a: One.\n        b: Two,\n            c: no.\n    """', 1),
        ('def f(a, b, *c):\n    """F.\n\n    Args:\n        a: One.\n        b: Two.\n        *c: Three.\n    """', 0),
        ('class C:\n    """C.\n\n    Args:\n        a: 1.\n        b: 2.\n        c: 3.\n    """\n'
         "    def __init__(self, a, b, c): ...", 0),
    ],
)  # fmt: skip
def test_the_check_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, n_problems: int) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text(source)
    assert len(undocumented(path)) == n_problems
