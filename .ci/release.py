"""Make the checkout that of a version: `make release VERSION=1.2.0`. Nothing is uploaded, committed or tagged.

The version stands in the package; Airflow's description of the provider takes it from there. In CHANGELOG.md what was
"Unreleased" gets the version and the day, and a new empty heading stands above it.
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
_HEADING = "## [Unreleased]\n"


def released(changelog: str, version: str, day: datetime.date) -> str:
    """Return the changelog with what was unreleased under the version.

    Args:
        changelog: CHANGELOG.md.
        version: The version, such as ``1.2.0``.
        day: The day of the release.

    Raises:
        ValueError: The version is none, was released before, or nothing is unreleased.
    """
    if not _VERSION.fullmatch(version):
        raise ValueError(f"{version!r} is no version such as 1.2.0 or 1.2.0rc1.")
    if f"## [{version}]" in changelog:
        raise ValueError(f"{version} is in CHANGELOG.md already.")
    before, heading, after = changelog.partition(_HEADING)
    if not heading or not re.match(r"\s*### ", after):
        raise ValueError("CHANGELOG.md has nothing under '## [Unreleased]'.")
    return f"{before}{_HEADING}\n## [{version}] - {day.isoformat()}\n{after}"


def main(arguments: list[str]) -> None:
    """Write the version and the changelog."""
    if len(arguments) != 1:
        sys.exit("make release VERSION=1.2.0")
    (version,) = arguments
    changelog, package = ROOT / "CHANGELOG.md", ROOT / "airflow_openai_batch" / "__init__.py"
    try:
        text = released(changelog.read_text(), version, datetime.datetime.now(datetime.UTC).date())
    except ValueError as error:
        sys.exit(str(error))
    changelog.write_text(text)
    package.write_text(re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', package.read_text()))
    print(f"Version {version}. Look at `git diff`, run `make package`, then commit and tag v{version}.")


if __name__ == "__main__":
    main(sys.argv[1:])
