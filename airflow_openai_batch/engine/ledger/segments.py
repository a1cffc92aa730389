"""Segments: Parquet files of pointers to good answers, sorted by the digests of their requests.

A ledger is a folder of segments in the storage root. Any number of jobs add segments and read them at the same time,
as each is written once, whole, under a name of its own. A pointer names an outcome part and a row in it, so an entry
takes some 20 bytes. One whose part is gone counts for nothing: to forget a job, its folder is removed.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.identity import folder_name
from airflow_openai_batch.engine.model import Status
from airflow_openai_batch.engine.store.files import Files

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Numbers = NDArray[Any]
    Halves = NDArray[np.uint64]

FOLDER = "~ledger"
"""The folder of all ledgers: no job has it, because a name with a tilde gets a hash as its ending."""

SEGMENT_ENTRIES = 2**18
"""How many entries a segment has at most: 5 MB, and some 10 MB in memory."""

_NAME = re.compile(r"(\d{10})-(\d{10})-(\d+)-[0-9a-f]+\.parquet\Z")


class Segment(NamedTuple):
    """What the name of a segment tells of it."""

    oldest: int
    """When its first entry was recorded, in epoch seconds; an answer is never younger than its entry."""
    newest: int
    n_entries: int
    name: str


class Digests:
    """Digests as two columns of big-endian numbers, by which they are sorted: no copy is needed to search in one.

    Attributes:
        high: The first eight bytes of each.
        low: The last eight bytes of each.
    """

    __slots__ = ("high", "low")

    def __init__(self, high: Halves, low: Halves) -> None:
        self.high, self.low = high, low

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, places: Any) -> Digests:
        """Return some of them, by an array of places, a mask or a slice."""
        return Digests(self.high[places], self.low[places])

    def order(self) -> Numbers:
        """Return the places that sort them."""
        import numpy as np

        return np.lexsort((self.low, self.high))

    def equal(self, others: Digests) -> NDArray[np.bool_]:
        """Return which are the same as those at the same places of others."""
        is_equal: NDArray[np.bool_] = (self.high == others.high) & (self.low == others.low)
        return is_equal


class Pointers(NamedTuple):
    """Entries of a ledger as columns of the same length."""

    digests: Digests
    asked_at: Numbers
    """When the answer was asked for, in epoch seconds."""
    part: Numbers
    """The place of the answer's outcome part in `parts`."""
    row: Numbers
    """The answer's row in that part, counted from 0."""
    parts: tuple[str, ...]
    """Names of outcome parts, relative to the storage root."""


def ledger_folders(root: Any) -> list[str]:
    """Return the names of the folders of all ledgers in a storage.

    Raises:
        StoreError: The storage cannot be read.
    """
    return sorted(Files(root).names_in(FOLDER))


class Ledger:
    """The answers that jobs share under one name.

    Args:
        root: The storage root, with the jobs whose answers they are: any path object of universal-pathlib.
        name: The ledger's name.
        folder: The name of its folder, where that is known and the ledger's name is not.
    """

    def __init__(self, root: Any, name: str, folder: str | None = None) -> None:
        self.name = name
        self.files = Files(root.joinpath(FOLDER, folder or folder_name(name)))
        self.answers = Files(root)
        """The files of all jobs, by their names relative to the storage root."""
        self.damaged: set[str] = set()
        """Segments that were met and cannot be read: their answers are not known, and nothing else suffers."""

    def check(self) -> None:
        """Prove that the ledger can be added to, before anything is paid for that it is to keep.

        Raises:
            StoreError: It cannot.
        """
        name = f"probe-{uuid.uuid4().hex}"
        self.files.create(name, b"1")
        self.files.remove(name)

    def segments(self) -> list[Segment]:
        """Return what there is, the oldest first.

        Raises:
            StoreError: The storage cannot be read.
        """
        matches = [match for name in self.files.names_in() if (match := _NAME.match(name))]
        return sorted(Segment(int(m[1]), int(m[2]), int(m[3]), m[0]) for m in matches)

    def record(self, part: str, asked_at: float, now: float) -> int:
        """Add the good answers of an outcome part, but not those of other jobs. Adding a part once more does nothing.

        Args:
            part: Its name, relative to the storage root.
            asked_at: When the answers were asked for, in epoch seconds.
            now: Epoch seconds.

        Returns:
            How many answers there are.

        Raises:
            StoreError: The storage cannot be read or written.
        """
        import numpy as np

        digests: list[Digests] = []
        rows: list[Numbers] = []
        first = 0
        for batch in read_part(self.answers, part, ["digest", "status", "reused_from"]):
            is_good = batch.column("status").to_numpy(zero_copy_only=False) == Status.SUCCEEDED.value
            is_good &= batch.column("reused_from").is_null().to_numpy(zero_copy_only=False)
            places = np.flatnonzero(is_good)
            digests.append(digests_of(batch.column("digest"))[places])
            rows.append(places + first)
            first += batch.num_rows
        if not digests or not (n := sum(map(len, rows))):
            return 0
        times = np.full(n, int(asked_at), np.int64)
        pointers = Pointers(joined_digests(digests), times, np.zeros(n, np.int64), np.concatenate(rows), (part,))
        self.add(pointers, int(now), int(now), of=part)
        return n

    def record_again(self, part: str, now: float) -> None:
        """Add the answers of an outcome part that were used again, and whose entries are old, with their new place.

        Args:
            part: Its name, relative to the storage root.
            now: Epoch seconds.

        Raises:
            StoreError: The storage cannot be read or written.
        """
        import numpy as np

        digests: list[Digests] = []
        columns: list[tuple[Numbers, Numbers]] = []
        first = 0
        for batch in read_part(self.answers, part, ["digest", "asked_at"]):
            places = np.flatnonzero(batch.column("asked_at").is_valid().to_numpy(zero_copy_only=False))
            times = batch.column("asked_at").drop_null().to_numpy()
            digests.append(digests_of(batch.column("digest"))[places])
            columns.append((times, places + first))
            first += batch.num_rows
        if not digests or not (n := sum(map(len, digests))):
            return
        times, rows = (np.concatenate([pair[i] for pair in columns]) for i in (0, 1))
        pointers = Pointers(joined_digests(digests), times, np.zeros(n, np.int64), rows, (part,))
        self.add(pointers, int(now), int(now), of=part)

    def add(self, pointers: Pointers, oldest: int, newest: int, of: str) -> None:
        """Write entries as segments, unless they are there.

        Args:
            pointers: The entries, in any order.
            oldest: When the first of them was recorded, in epoch seconds.
            newest: When the last was.
            of: What they are of: the same text means the same entries.

        Raises:
            StoreError: The storage cannot be written.
        """
        order = pointers.digests.order()
        for start in range(0, len(order), SEGMENT_ENTRIES):
            some = order[start : start + SEGMENT_ENTRIES]
            unique = hashlib.sha256(f"{of}:{start}".encode()).hexdigest()[:16]
            name = f"{oldest:010d}-{newest:010d}-{len(some)}-{unique}.parquet"
            if any(there.endswith(f"-{unique}.parquet") for there in self.files.names_in()):
                continue
            try:
                self._write(name, taken(pointers, some))
            except StoreError:
                if not self.files.exists(name):  # else another process was faster
                    raise

    def _write(self, name: str, pointers: Pointers) -> None:
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq

        digests = np.stack([pointers.digests.high, pointers.digests.low], axis=1).astype(">u8").tobytes()
        used, codes = np.unique(pointers.part, return_inverse=True)
        parts = pa.array([pointers.parts[i] for i in used.tolist()], pa.string())
        columns = {
            "digest": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(codes), [None, pa.py_buffer(digests)]),
            "asked_at": pa.array(pointers.asked_at),
            "part": pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), parts),
            "row": pa.array(pointers.row.astype(np.int32)),
        }
        with self.files.writing(name) as file:
            pq.write_table(pa.table(columns), file, use_dictionary=["asked_at", "part"], write_statistics=False)


def decode_segment(data: bytes) -> Pointers:
    """Return the entries of a segment, sorted by digest.

    Args:
        data: The whole file.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=["part"], pre_buffer=False)
    table = file.read(use_threads=False).combine_chunks()
    if not table.num_rows:
        return no_pointers()
    parts = table.column("part").unify_dictionaries().combine_chunks()
    return Pointers(
        digests_of(table.column("digest").combine_chunks()),
        table.column("asked_at").to_numpy(),
        parts.indices.to_numpy().astype(np.int64),
        table.column("row").to_numpy().astype(np.int64),
        tuple(parts.dictionary.to_pylist()),
    )


def no_pointers() -> Pointers:
    """Return no entries."""
    import numpy as np

    nothing = np.empty(0, np.int64)
    none = Digests(nothing.astype(np.uint64), nothing.astype(np.uint64))
    return Pointers(none, nothing, nothing, nothing, ())


def digests_of(digests: pa.Array) -> Digests:
    """Return a column of digests, each 16 bytes."""
    import numpy as np

    # A column of several chunks, or a slice, has its own offset.
    data = digests.combine_chunks() if hasattr(digests, "combine_chunks") else digests
    buffer = data.buffers()[1]
    if buffer is None:
        return no_pointers().digests
    pairs = np.frombuffer(buffer, ">u8").reshape(-1, 2)[data.offset : data.offset + len(data)]
    return Digests(pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64))


def joined_digests(digests: Sequence[Digests]) -> Digests:
    """Return digests one after another."""
    import numpy as np

    return Digests(np.concatenate([some.high for some in digests]), np.concatenate([some.low for some in digests]))


def taken(pointers: Pointers, places: Any) -> Pointers:
    """Return some of the entries.

    Args:
        pointers: The entries.
        places: An array of their places, or a mask.
    """
    digests, asked_at, part, row, parts = pointers
    return Pointers(digests[places], asked_at[places], part[places], row[places], parts)


def joined(pointers: Sequence[Pointers]) -> Pointers:
    """Return the entries of several segments, one after another."""
    import numpy as np

    parts: dict[str, int] = {}
    codes: list[Numbers] = []
    for some in pointers:
        places = np.array([parts.setdefault(name, len(parts)) for name in some.parts], np.int64)
        codes.append(places[some.part] if len(some.part) else some.part)
    digests = joined_digests([some.digests for some in pointers])
    asked_at, row = (np.concatenate([getattr(some, name) for some in pointers]) for name in ("asked_at", "row"))
    return Pointers(digests, asked_at, np.concatenate(codes), row, tuple(parts))
