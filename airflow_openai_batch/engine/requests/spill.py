"""Requests of models that have to wait for others, on this machine's disk, so that few shards are open at a time."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from airflow_openai_batch.engine.requests.lines import Requests

if TYPE_CHECKING:
    import pyarrow as pa


MAX_FILES = 16


class Spill:
    """Keeps requests and their rows by model, in temporary files that vanish with the process.

    Args:
        n_models: Number of models in a file. The last of `MAX_FILES` files has all other models.
    """

    def __init__(self, n_models: int) -> None:
        self._n_models = n_models
        self._files: list[IO[bytes]] = []
        self._file_of: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._files)

    def add(self, model: str, requests: Requests, rows: pa.RecordBatch) -> None:
        """Keep requests of one model.

        Args:
            model: Their model.
            requests: The requests.
            rows: Their rows.
        """
        number = self._file_of.setdefault(model, min(len(self._file_of) // self._n_models, MAX_FILES - 1))
        if number == len(self._files):
            self._files.append(tempfile.TemporaryFile(prefix="openai-batch-"))  # noqa: SIM115 - see close
        pickle.dump((model, requests, rows), self._files[number], protocol=pickle.HIGHEST_PROTOCOL)

    def files(self) -> Iterator[Iterator[tuple[str, Requests, pa.RecordBatch]]]:
        """Yield what each file holds, in the order in which it was added, and delete the file."""
        for file in self._files:
            with file:
                yield _loaded(file)

    def close(self) -> None:
        """Delete all files."""
        for file in self._files:
            file.close()


def _loaded(file: IO[bytes]) -> Iterator[tuple[str, Requests, pa.RecordBatch]]:
    end = file.tell()
    file.seek(0)
    while file.tell() < end:
        yield pickle.load(file)  # noqa: S301 - an unnamed file that only this process has written
