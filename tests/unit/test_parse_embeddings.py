from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from builders import EMBEDDINGS, line

from airflow_openai_batch.engine.answers.parser import LineParser
from airflow_openai_batch.engine.model import Outcome, Status, Usage

VECTOR = [0.25, -1.5, 3.0]
BASE64 = base64.b64encode(np.array(VECTOR, dtype="<f4").tobytes()).decode()


def parse(*entries: Any, **more: Any) -> Outcome:
    found = LineParser(EMBEDDINGS).parse(line("c", {"model": "e", "data": list(entries), **more}))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "embedding", [VECTOR, BASE64, [0.25, -1.5, 3]], ids=["floats", "base64", "an integer among them"]
)
def test_a_vector_is_read_in_both_encodings(embedding: Any) -> None:
    found = parse({"embedding": embedding, "index": 0}, usage={"prompt_tokens": 5, "total_tokens": 5})
    assert (found.status, found.usage, found.model) == (Status.SUCCEEDED, Usage(input_tokens=5), "e")
    [vector] = found.output
    assert vector.dtype == np.float32 and vector.tolist() == VECTOR


def test_vectors_come_in_the_order_of_their_inputs() -> None:
    found = parse({"embedding": [2.0], "index": 1}, {"embedding": [1.0], "index": 0})
    assert [vector.tolist() for vector in found.output] == [[1.0], [2.0]]


@pytest.mark.parametrize("embedding", ["not base64!", "QUJD", "", [], None, {"x": 1}, [None], ["a"]])
def test_a_spoilt_vector_is_invalid(embedding: Any) -> None:
    found = parse({"embedding": embedding, "index": 0})
    assert (found.status, found.output, found.error_code) == (Status.INVALID, None, "unreadable_answer")


def test_an_answer_without_vectors_is_invalid() -> None:
    assert parse().error_code == "unreadable_answer"
