"""Does the job store grow with how often a job is looked at, or faster than its shards?

    python benchmarks/store_growth.py                          # 20, 100 and 400 shards, 200 looks at each
    python benchmarks/store_growth.py --shards 20 --looks 1000

A whole job: planned, uploaded, its batches created, looked at so often that each look finds other counts and commits
them, and harvested at last. OpenAI is a dict here. Counted is what the snapshots of the job hold in the end, at most at
any look, and what was written for it; rows, requests and answers are as large as the user's data and left out. Exits
with 1 if more is kept than the newest snapshots can take, or if the largest job's state takes a tenth more for each
shard than the smallest one's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import workload
from local_openai import store_in

if TYPE_CHECKING:
    from airflow_openai_batch.engine.api.batch_json import UploadedFile
    from airflow_openai_batch.engine.model import Batch

ROWS_PER_SHARD = 2


class Waiting:
    """An OpenAI whose batches are a little further at each look, and end when they are told to."""

    host = "localhost"
    has_openais_prices = True

    def __init__(self) -> None:
        self.has_ended = False
        self._numbers = itertools.count()
        self._files: dict[str, list[str]] = {}
        self._made: dict[str, Batch] = {}

    def upload(self, name: str, file: IO[bytes], expires_after_s: int | None = None) -> UploadedFile:
        """Keep the custom_ids of a file."""
        file_id = f"file-{next(self._numbers):022d}"
        self._files[file_id] = [json.loads(line)["custom_id"] for line in file]
        from airflow_openai_batch.engine.api.batch_json import UploadedFile

        return UploadedFile(file_id)

    def create(self, *, file_id: str, metadata: dict[str, str], **_: Any) -> Batch:
        """Make a batch that runs."""
        from airflow_openai_batch.engine.identity import NONCE_KEY
        from airflow_openai_batch.engine.model import Batch

        made = Batch(
            id=f"batch_{len(self._made):032x}",
            status="in_progress",
            created_at=0.0,
            expires_at=86_400.0,
            input_file_id=file_id,
            n_total=50_000,
            nonce=metadata[NONCE_KEY],
        )
        self._made[made.id] = made
        return made

    def retrieve(self, batch_id: str) -> Batch:
        """Return a batch, further than before."""
        import msgspec

        known = self._made[batch_id]
        changes: dict[str, Any] = {"n_completed": known.n_completed + 1}
        if self.has_ended:
            file_id = f"out-{known.input_file_id}"
            changes = {"status": "completed", "ended_at": 50_000.0, "output_file_id": file_id, "n_completed": 50_000}
        self._made[batch_id] = msgspec.structs.replace(known, **changes)
        return self._made[batch_id]

    def batches(self, since: float) -> Iterator[Batch]:
        """Yield all batches."""
        return iter(self._made.values())

    def download(self, file_id: str, target: IO[bytes]) -> int:
        """Write an answer to each request of a batch's input file."""
        text = [{"type": "message", "content": [{"type": "output_text", "text": "fine"}]}]
        body = {"model": "m", "status": "completed", "output": text, "usage": {"input_tokens": 9, "output_tokens": 1}}
        response = {"status_code": 200, "request_id": "req", "body": body}
        lines = [
            json.dumps({"custom_id": custom_id, "response": response}).encode() + b"\n"
            for custom_id in self._files[file_id.removeprefix("out-")]
        ]
        target.write(b"".join(lines))
        return sum(map(len, lines))

    def file_bytes(self, file_id: str) -> None:
        """Return that no size is known."""


def measure(n_shards: int, n_looks: int, folder: Path) -> dict[str, int]:
    """Take a job to its end.

    Returns:
        Commits, and bytes of snapshots: ``largest`` one, ``written`` in all, kept at ``most``, kept in the ``end``.
    """
    from airflow_openai_batch.engine.endpoints import Limits
    from airflow_openai_batch.engine.job.advance import advance
    from airflow_openai_batch.engine.job.context import Engine
    from airflow_openai_batch.engine.job.status import Done, Wait
    from airflow_openai_batch.engine.job.submit import Request, submit
    from airflow_openai_batch.engine.model import Policy

    store, api, now = store_in(folder), Waiting(), 1.0
    sizes: dict[str, int] = {}
    most = 0
    create = store.create

    def counted(name: str, data: bytes) -> bool:
        sizes[name] = len(data)
        return create(name, data)

    store.create = counted  # type: ignore[method-assign]
    log = logging.getLogger("store_growth")
    log.setLevel(logging.ERROR)
    engine = Engine(store=store, api=api, parallel=4, clock=lambda: now, log=log)  # type: ignore[arg-type]
    rows = [{"id": f"t{i}", "text": "fine"} for i in range(n_shards * ROWS_PER_SHARD)]
    body = {"model": "m", "input": "{text}"}
    limits = Limits(max_requests=ROWS_PER_SHARD)
    submit(engine, Request(rows, endpoint=workload.RESPONSES, body=body, custom_id="{id}", limits=limits), Policy())
    for look in range(n_looks + 1):
        api.has_ended = look == n_looks
        reached = advance(engine)
        now += 60.0
        most = max(most, kept(folder))
        if not isinstance(reached, Done if api.has_ended else Wait):
            raise TypeError(f"Look {look}: {reached}")
    written = [size for name, size in sizes.items() if name.startswith("state/")]
    return {
        "commits": len(written),
        "largest": max(written),
        "written": sum(written),
        "most": most,
        "end": kept(folder),
    }


def kept(folder: Path) -> int:
    """Return the bytes of all snapshots that are in the store."""
    return sum(path.stat().st_size for path in folder.rglob("state/*"))


def main() -> int:
    """Measure, and print the table."""
    from airflow_openai_batch.engine.store.job_store import FULL_SNAPSHOTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[20, 100, 400], help="default 20 100 400")
    parser.add_argument("--looks", type=int, default=200, help="default 200")
    options = parser.parse_args()
    print("| shards | looks | commits | largest snapshot | written in all | kept at most | at the end | for a shard |")
    print("| --: | --: | --: | --: | --: | --: | --: | --: |")
    per_shard: list[float] = []
    is_bounded = True
    for n in sorted(options.shards):
        with tempfile.TemporaryDirectory(prefix="store-growth-") as folder:
            m = measure(n, options.looks, Path(folder))
        per_shard.append(m["largest"] / n)
        is_bounded = is_bounded and m["most"] <= FULL_SNAPSHOTS * m["largest"]
        megabytes = " | ".join(f"{m[name] / 1e6:.2f} MB" for name in ("largest", "written", "most", "end"))
        each = f"{m['most'] / n / 1e3:.1f} KB"
        print(f"| {n:,} | {options.looks:,} | {m['commits']:,} | {megabytes} | {each} |", flush=True)
    return int(not is_bounded or per_shard[-1] > 1.1 * per_shard[0])


if __name__ == "__main__":
    sys.exit(main())
