"""Files go to OpenAI and come from there: uploads and downloads as streams.

    python benchmarks/transfer.py

A "row" is a megabyte here: 200 MB up, 1,000 MB down, over the loopback interface and without TLS, so that the client
is what is measured; over a real network the network decides. The other end is a process of its own (http_end.py).
`raw` is the least that the SDK's client can do. "Ours" is `Api.upload` and `Api.download`, the latter with its second
call that asks for the size. `curl` is a process that starts and ends within the measured time. The last method of each
is what the SDK's own examples do.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import urllib.request
from pathlib import Path

from http_end import hash_of, running
from measure import Benchmark
from sample import Case
from summary import Goal, over_base, ratio

MB = 1_000_000

GOALS: tuple[Goal, ...] = (
    ratio("Upload: time of curl -F", "upload", "ours", "curl", 1.25),
    over_base("Upload of 200 MB: memory over base", "upload", "ours", 5),
    ratio("Download: time of curl -o", "download", "ours", "curl", 1.25),
    over_base("Download of 1 GB: memory over base", "download", "ours", 5),
)

bench = Benchmark(__file__, __doc__, GOALS)
up = bench.group("upload", "{rows} MB up", rows=200, quick_rows=2, unit="MB")
down = bench.group("download", "{rows} MB down", rows=1000, quick_rows=3, unit="MB")


def prepare(case: Case) -> None:
    """Make the file: lines of what does not repeat."""
    import random

    rng = random.Random("transfer")
    block = b"".join(b'{"custom_id":"%s"}\n' % rng.randbytes(490).hex().encode() for _ in range(1000))[:MB]
    block += b" " * (MB - len(block))
    with (case.shared / "file.jsonl").open("wb") as file:
        for _ in range(case.rows):
            file.write(block)


up.prepare = down.prepare = prepare


def _uploaded(case: Case, url: str) -> None:
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/uploaded") as answer:
        case.check(hash=json.load(answer)["hash"])


def _room(case: Case) -> int:
    return case.rows * MB + 100_000


@up.method("ours", "this package")
def upload(case: Case) -> None:
    from openai import OpenAI

    from airflow_openai_batch.engine.api.client import Api

    path = case.shared / "file.jsonl"
    with running(path, _room(case)) as url:
        api = Api(OpenAI(base_url=url, api_key="sk-not-a-key"))
        with case.timed(), path.open("rb") as file:
            api.upload("file.jsonl", file)
        _uploaded(case, url)


@up.method("raw", "limit: the SDK's upload of an open file")
def raw_upload(case: Case) -> None:
    from openai import OpenAI

    path = case.shared / "file.jsonl"
    with running(path, _room(case)) as url:
        client = OpenAI(base_url=url, api_key="sk-not-a-key")
        with case.timed(), path.open("rb") as file:
            client.files.create(file=file, purpose="batch")
        _uploaded(case, url)


@up.method("curl", "curl -F")
def curl_upload(case: Case) -> None:
    path = case.shared / "file.jsonl"
    with running(path, _room(case)) as url:
        _curl(case, f"{url}/files", "-F", "purpose=batch", "-F", f"file=@{path}")
        _uploaded(case, url)


@up.method("sdk", "openai SDK, file=Path(...)", most=3)
def sdk_upload(case: Case) -> None:
    from openai import OpenAI

    path = case.shared / "file.jsonl"
    with running(path, _room(case)) as url:
        client = OpenAI(base_url=url, api_key="sk-not-a-key")
        with case.timed():
            client.files.create(file=path, purpose="batch")
        _uploaded(case, url)


@down.method("ours", "this package")
def download(case: Case) -> None:
    from openai import OpenAI

    from airflow_openai_batch.engine.api.client import Api

    with running(case.shared / "file.jsonl", 1) as url:
        api = Api(OpenAI(base_url=url, api_key="sk-not-a-key"))
        with case.timed(), (case.work / "file.jsonl").open("w+b") as file:
            api.download("file-1", file)
    case.check(hash=hash_of(case.work / "file.jsonl"))


@down.method("raw", "limit: the SDK's raw stream, written to a file")
def raw_download(case: Case) -> None:
    from openai import OpenAI

    with running(case.shared / "file.jsonl", 1) as url:
        client = OpenAI(base_url=url, api_key="sk-not-a-key")
        with (
            case.timed(),
            (case.work / "file.jsonl").open("wb") as file,
            client.files.with_streaming_response.content("file-1") as response,
        ):
            for chunk in response.http_response.iter_raw():
                file.write(chunk)
    case.check(hash=hash_of(case.work / "file.jsonl"))


@down.method("curl", "curl -o")
def curl_download(case: Case) -> None:
    with running(case.shared / "file.jsonl", 1) as url:
        _curl(case, f"{url}/files/file-1/content", "-o", str(case.work / "file.jsonl"))
    case.check(hash=hash_of(case.work / "file.jsonl"))


@down.method("sdk", "openai SDK, files.content().write_to_file()", most=3)
def sdk_download(case: Case) -> None:
    from openai import OpenAI

    with running(case.shared / "file.jsonl", 1) as url:
        client = OpenAI(base_url=url, api_key="sk-not-a-key")
        with case.timed():
            client.files.content("file-1").write_to_file(case.work / "file.jsonl")
    case.check(hash=hash_of(Path(case.work / "file.jsonl")))


def _curl(case: Case, url: str, *arguments: str) -> None:
    with case.timed():
        subprocess.run(["curl", "--silent", "--show-error", "--fail", url, *arguments], check=True, capture_output=True)
    # Of the process that worked, in place of this one's.
    case.found |= {"base_mb": 0.0, "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}


if __name__ == "__main__":
    sys.exit(bench.main())
