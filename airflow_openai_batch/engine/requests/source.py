"""What a source of rows is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


class Source(Protocol):
    """A source of rows."""

    is_repeatable: bool
    """Whether it yields the same rows again as long as its version is the same."""

    @property
    def version(self) -> str | None:
        """A text that changes when the rows change; None if only reading the rows would show that."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in order. May be called once for each reading of the source."""
