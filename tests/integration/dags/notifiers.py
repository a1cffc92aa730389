"""A notifier as a provider has them: it renders its text, and the triggerer can import it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier


class FileNotifier(BaseNotifier):
    """Appends its text to a file of the test's output folder."""

    template_fields: Sequence[str] = ("text",)

    def __init__(self, text: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.text = text

    def notify(self, context: Any) -> None:
        """Write the text."""
        with (Path(os.environ["OPENAI_BATCH_TEST_OUTPUT"]) / "notifications.jsonl").open("a") as file:
            file.write(json.dumps(self.text) + "\n")

    async def async_notify(self, context: Any) -> None:
        """Do the same from the triggerer."""
        self.notify(context)
