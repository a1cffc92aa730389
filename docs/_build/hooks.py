"""MkDocs calls these while it builds: they add the generated pages, and fill in the generated parts of the others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]  # MkDocs imports this file alone, and runs from anywhere

import generate  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402


def on_config(config: Any) -> Any:
    """Give examples that mkdocs.yml does not name yet a place, and Airflow, which some parts import, a folder."""
    os.environ.setdefault("AIRFLOW_HOME", str(ROOT / ".demo" / "docs-airflow"))
    (how_to,) = (entry["How to"] for entry in config.nav if "How to" in entry)
    how_to += generate.unlisted(config.nav)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of other files: the README, the examples, the licences."""
    for uri, text in generate.pages(config.repo_url).items():
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in ``<!-- generated: NAME ARGUMENT -->``, and lead links out of docs/ to the repository."""
    text = generate.filled(markdown)
    return generate.repository_links(text, page.file.src_uri, config.repo_url)
