"""Build the wheel and the sdist, and prove what whoever installs them gets: `make package`, on the newest Airflow.

    python .ci/package.py [--airflow 3.1.8]

The wheel is built from the sdist, checked by twine, and installed into an empty environment. A program that runs there,
away from the checkout, looks for everything that the package promises.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATIC = ("ui/static", "prices.json", "py.typed")
"""Files that are no code, and have to be in the wheel."""


def main() -> None:
    """Build, check, install and look."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--airflow", help="the version of Airflow; by default the newest")
    airflow = parser.parse_args().airflow
    with tempfile.TemporaryDirectory(prefix="package-") as folder:
        wheel, sdist = built(Path(folder))
        run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist))
        check_wheel(wheel)
        check_sdist(sdist)
        python = installed(wheel, Path(folder) / "venv", airflow)
        look = Path(folder) / "elsewhere"
        look.mkdir()
        run(str(python), "-I", str(ROOT / ".ci" / "package_contents.py"), cwd=look, env=environment(look))
    print("The package is whole.")


def built(folder: Path) -> tuple[Path, Path]:
    """Return the wheel, which is built from the sdist, and the sdist."""
    run("uv", "build", "--quiet", "--out-dir", str(folder), str(ROOT))
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def check_wheel(wheel: Path) -> None:
    """Check that every file of the package is in the wheel, nothing else is, and its readme has no relative link."""
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        told = message_from_bytes(file.read(metadata))
    tracked = subprocess.run(
        ["git", "ls-files", "airflow_openai_batch", "dags_examples"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    wanted = {re.sub("^dags_examples/", "airflow_openai_batch/demo/dags_examples/", name) for name in tracked}
    require(names == wanted, f"the wheel differs from the checkout: {sorted(names ^ wanted)}")
    for name in STATIC:
        require(any(each.startswith(f"airflow_openai_batch/{name}") for each in names), f"{name} is not in the wheel")
    relative = re.findall(r"\]\((?!https://|#)[^)]*\)", str(told.get_payload()))
    require(not relative, f"links that lead nowhere on PyPI: {relative}")
    require(told["License-Expression"] == "Apache-2.0" and "LICENSE" in (told.get_all("License-File") or []), "licence")


def check_sdist(sdist: Path) -> None:
    """Check that what tests and documentation need is in the sdist."""
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "Makefile", "mkdocs.yml", "docs/get-started.md", "tests/unit"):
        require(any(each == name or each.startswith(f"{name}/") for each in names), f"{name} is not in the sdist")


def installed(wheel: Path, venv: Path, airflow: str | None) -> Path:
    """Install the wheel into an environment with nothing in it, and return that environment's Python."""
    run("uv", "venv", "--quiet", "--python", sys.executable, str(venv))
    python = venv / "bin" / "python"
    pins = [f"apache-airflow=={airflow}"] if airflow else []
    run("uv", "pip", "install", "--quiet", "--python", str(python), f"{wheel}[emulator]", "pytest", *pins)
    return python


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process that knows nothing of the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    return {**kept, "AIRFLOW_HOME": str(folder)}


def run(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a command, and leave with its exit status if it fails."""
    if status := subprocess.run(command, cwd=cwd, env=env, check=False).returncode:
        sys.exit(f"{' '.join(command[:4])} failed with {status}")


def require(condition: bool, problem: str) -> None:
    """Leave with the problem unless the condition holds."""
    if not condition:
        sys.exit(f"The package is not whole: {problem}")


if __name__ == "__main__":
    main()
