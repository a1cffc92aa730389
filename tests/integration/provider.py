"""The package under test as Airflow's processes find it: on the path, and discoverable as a provider."""

from __future__ import annotations

import importlib.metadata
import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def provider_path(home: Path) -> str:
    """Return a PYTHONPATH on which Airflow finds the package and discovers it as a provider."""
    try:
        importlib.metadata.distribution("airflow-openai-batch")
    except importlib.metadata.PackageNotFoundError:
        return os.pathsep.join([str(ROOT), str(_stand_in_for_installation(home / "site"))])
    return str(ROOT)


def _stand_in_for_installation(folder: Path) -> Path:
    """Write the metadata that `pip install` would: Airflow discovers providers by entry point only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = folder / "airflow_openai_batch-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines.append(f"[{group}]")
        for name, target in entries.items():
            module = ROOT.joinpath(*target.split(":")[0].split("."))
            # An entry point without its module would end every Airflow command.
            if module.with_suffix(".py").exists() or module.is_dir():
                lines.append(f"{name} = {target}")
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
