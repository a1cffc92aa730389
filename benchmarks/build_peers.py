"""Other libraries for OpenAI's Batch API build the same requests: methods of build.py.

    python benchmarks/build_peers.py FOLDER        # makes the environments, with uv
    python benchmarks/build.py --peers FOLDER

Each has an environment of its own, is used as its documentation says for many rows, and gets what it does not need
done for it: what a library would upload is linked into a folder instead, and gpt-batch-api's counting of tokens, which
downloads tables, is taken out. They cannot all write the same request: batchata always sends `temperature` and
`max_tokens`; batchata, openai-batch and gpt-batch-api choose the custom_ids. Compared are the model, the messages and
the fields of the schema. openai-batch takes at most 100 MB per file, so it writes two.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import workload
from measure import Group
from sample import Case
from summary import Goal

PEERS = {"openai-batch": "0.3.4", "openbatch": "0.0.4", "batchata": "0.4.7", "gpt-batch-api": "1.0.5"}
LIMITS = {"openai-batch": 5, "openbatch": 20, "batchata": 50, "gpt-batch-api": 50}
_MOST = {"openai-batch": 5, "openbatch": 5, "batchata": 1, "gpt-batch-api": 3}
"""Samples: one of batchata takes two minutes."""


def _times(peer: str) -> Goal:
    return Goal(
        f"Build: times as fast as {peer} {PEERS[peer]}",
        lambda median: median("peers", peer, "seconds") / median("peers", "ours", "seconds"),
        LIMITS[peer],
        at_least=True,
    )


GOALS = tuple(_times(peer) for peer in PEERS)


def python_of(peer: str) -> Any:
    """Return the function that finds a peer's interpreter."""
    return lambda options: str(options.peers / peer / "bin" / "python")


def declare(group: Group) -> None:
    """Declare the peers as methods of a group."""
    methods = {
        "openai-batch": _openai_batch,
        "openbatch": _openbatch,
        "batchata": _batchata,
        "gpt-batch-api": _gpt_batch_api,
    }
    for peer, run in methods.items():
        title = f"{peer} {PEERS[peer]}"
        group.method(peer, title, most=_MOST[peer], needs="peers", python=python_of(peer))(run)


def _rows(case: Case) -> Iterator[Any]:
    import pandas as pd

    return pd.read_parquet(workload.rows_file(case.data, case.rows)).itertuples()


def _asked(row: Any) -> dict[str, Any]:
    return workload.chat_body_of({"category": row.category, "text": row.text})


def _report(case: Case) -> None:
    paths = sorted(case.work.glob("*.jsonl"))
    case.check(**workload.fingerprint_of_chats(line for path in paths for line in path.open("rb")))


def _openai_batch(case: Case) -> None:
    import pandas as pd  # noqa: F401
    from openai_batch import Batch
    from openai_batch.providers import openai_provider

    with case.timed():
        rows = _rows(case)
        for i, n in enumerate((case.rows // 2, case.rows - case.rows // 2)):
            with Batch(submission_input_file=case.work / f"{i}.jsonl", provider=openai_provider) as batch:
                for _, row in zip(range(n), rows, strict=False):
                    batch.add_to_batch(**_asked(row))
    _report(case)


def _openbatch(case: Case) -> None:
    import pandas as pd  # noqa: F401
    from openbatch import BatchJobManager, ChatCompletionsRequest, Message, PromptTemplate, PromptTemplateInputInstance

    with case.timed():
        body = workload.CHAT_BODY
        prompt = PromptTemplate(messages=[Message(**message) for message in body["messages"]])
        request = ChatCompletionsRequest(model=body["model"], response_format=body["response_format"])
        instances = (
            PromptTemplateInputInstance(id=row.id, prompt_value_mapping={"category": row.category, "text": row.text})
            for row in _rows(case)
        )
        BatchJobManager().add_templated_instances(prompt, request, instances, case.work / "0.jsonl")
    _report(case)


def _batchata(case: Case) -> None:
    from types import SimpleNamespace

    import pandas as pd  # noqa: F401

    os.environ["OPENAI_API_KEY"] = "sk-not-a-key"
    from batchata import Batch
    from batchata.providers import get_provider

    label, provider = _label(), get_provider(workload.CHAT_MODEL)  # the first call imports all vendors' clients

    def upload(file: Any, purpose: str) -> Any:
        os.link(file.name, case.work / "0.jsonl")
        return SimpleNamespace(id="file-1")

    with case.timed():
        batch = Batch(results_dir=str(case.work / "results"), items_per_batch=50_000, raw_files=False)
        batch.set_default_params(model=workload.CHAT_MODEL)
        for row in _rows(case):
            batch.add_job(messages=_asked(row)["messages"], response_model=label)
        provider.client = SimpleNamespace(
            files=SimpleNamespace(create=upload),
            batches=SimpleNamespace(create=lambda **_: SimpleNamespace(id="batch_1")),
        )
        provider.create_batch(batch.jobs)
    _report(case)


def _label() -> Any:
    from typing import Literal

    from pydantic import BaseModel, Field

    described = {name: entry.get("description") for name, entry in workload.SCHEMA["properties"].items()}

    class Label(BaseModel):
        topic: Literal[workload.TOPICS] = Field(description=described["topic"])  # type: ignore[valid-type]
        is_urgent: bool = Field(description=described["is_urgent"])
        confidence: float = Field(ge=0, le=1)
        summary: str = Field(description=described["summary"])

    return Label


def _gpt_batch_api(case: Case) -> None:
    import dataclasses

    import pandas as pd  # noqa: F401
    from gpt_batch_api import GPTRequest, GPTRequester, InputTokensCount, TokenEstimator

    counted = InputTokensCount(**{field.name: 500 for field in dataclasses.fields(InputTokensCount)})
    TokenEstimator.payload_input_tokens = lambda self, payload, endpoint: counted
    with case.timed():
        requester = GPTRequester(
            str(case.work / "requester"),
            "benchmark",
            openai_api_key="sk-not-a-key",
            endpoint=workload.CHAT,
            wandb=False,
            max_batch_mb=200,
            max_batch_ktokens=1_000_000,
            max_batch_cost=1e6,
            max_remote_ktokens=1_000_000,
            max_remote_cost=1e6,
            max_session_cost=1e9,
            max_task_cost=1e9,
            max_remote_batches=0,
        )
        requests = (GPTRequest(payload=_asked(row)) for row in _rows(case))
        with requester:
            with requester.commit_requests(reqs=requests):
                pass
            requester.batch_requests(force=True)
        for path in (case.work / "requester").glob("*_batch*.jsonl"):
            path.rename(case.work / path.name)
    _report(case)


def main() -> None:
    """Make the environments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="an interpreter or its version, at least 3.12")
    options = parser.parse_args()
    uv = [sys.executable, "-m", "uv"]
    for peer, version in PEERS.items():
        folder = options.folder / peer
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", options.python, str(folder)], check=True)
        install = [*uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
        # openai-batch imports httpx and counts on openai to bring it, which it does no longer.
        subprocess.run([*install, f"{peer}=={version}", "httpx", "pandas", "pyarrow"], check=True)
        print(f"{peer} {version}: {folder}")


if __name__ == "__main__":
    main()
