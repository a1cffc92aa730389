"""Secrets are told in no form; of what OpenAI quotes of a row, only names of parameters."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from airflow_openai_batch.engine import redaction
from airflow_openai_batch.engine.api.text import clean, id_text_of
from airflow_openai_batch.engine.redaction import (
    has_secret,
    remember_headers,
    remember_secrets,
    scrubbed,
    without_values,
)

KEY = "Zq7/aB+c9=dE_fG-hI1jK2lM3nO4p"


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_secrets", {})
    monkeypatch.setattr(redaction, "_forms", redaction._Forms((), None, frozenset()))
    return


@pytest.mark.parametrize("around", ["", "Bearer ", "user:"])
@pytest.mark.parametrize(
    "form",
    [
        lambda text: text,
        lambda text: repr(text + "\n"),
        lambda text: repr((text + "\r\n").encode()),
        lambda text: json.dumps(text),
        lambda text: quote(text, safe=""),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
        lambda text: f"\x1b[31m{text}\x1b[0m",
        lambda text: text[:-6] + "...",
        lambda text: "..." + text[9:],
    ],
)
def test_a_key_is_told_in_no_form(around: str, form) -> None:
    remember_secrets([KEY + "\n"])
    told = clean(f"Illegal value {form(around + KEY)}, sent twice: {form(around + KEY)}.", 500)
    assert "***" in told and "Illegal value" in told and "sent twice" in told
    for text in (KEY, quote(KEY, safe=""), base64.b64encode(KEY.encode()).decode()):
        assert all(text[i : i + 10] not in told for i in range(len(text) - 9)), told
    assert told.isprintable()


def test_a_key_that_was_broken_by_what_cannot_be_sent_is_told_in_no_part() -> None:
    remember_secrets(["sk-first-part-of-it\u2026second-part-of-it\x00"])
    assert scrubbed(r"b'Bearer sk-first-part-of-it\xe2\x80\xa6second-part-of-it\x00'").count("***") == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", f"Bearer {KEY}"),
        ("Authorization", "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()),
        ("api-key", KEY),
        ("X-Gateway-Token", KEY),
        ("Cookie", f"session={KEY}"),
        ("X-Anything", "a1b2c3d4e5f6g7h8i9j0k1l2"),
    ],
)
def test_headers_are_secret_by_their_name_or_their_look(name: str, value: str) -> None:
    remember_headers({name: value}, by_look=True)
    secret = value.rpartition(" ")[2]
    assert secret not in scrubbed(f"header {name}: {secret}")
    if "Basic" in value:
        assert KEY not in scrubbed(f"the password is {KEY}")


def test_headers_that_are_no_secret_may_be_told() -> None:
    harmless = {
        "User-Agent": "OpenAI/Python 3.54.0",
        "OpenAI-Organization": "org-abcdefghij0123456789",
        "X-Env": "staging",
    }
    remember_headers(harmless)
    for value in harmless.values():
        assert scrubbed(f"for {value}.") == f"for {value}."


def test_ids_of_traces_do_not_drive_out_the_key() -> None:
    remember_secrets([KEY])
    for i in range(500):
        remember_headers(
            {"traceparent": f"00-4bf92f3577b34da6a3ce929d0e{i:06d}-00f067aa0ba902b7-01", "X-Env": "staging"}
        )
    assert list(redaction._secrets) == [KEY]


def test_a_key_that_is_a_word_does_not_hide_other_words() -> None:
    remember_secrets(["none", "other"])
    assert scrubbed("another none-of-it: key none") == "another none-of-it: key ***"
    assert id_text_of("batch_none_other") == "batch_none_other"


def test_what_looks_like_a_key_or_stands_in_an_address_is_not_told_though_nobody_knows_it() -> None:
    for text, secret in [
        ("Incorrect API key provided: sk-proj-ABCDEFGHIJKLMNOPQRST.", "ABCDEFGH"),
        ("proxy http://me:pa55@proxy:3128 refused", "pa55"),
        ("GET https://h/v1/batches?api-key=hunter22&limit=5", "hunter22"),
        ("Authorization: Basic bWU6cGFzc3dvcmQ=", "bWU6"),
    ]:
        assert secret not in scrubbed(text)
    assert (
        scrubbed("GET https://h/v1/batches?limit=5&after=batch_1") == "GET https://h/v1/batches?limit=5&after=batch_1"
    )


def test_an_id_that_is_the_key_is_no_id() -> None:
    remember_secrets([KEY])
    assert has_secret(f"batch_{KEY}") and id_text_of(f"batch_{KEY}") is None
    assert id_text_of("batch_" + KEY[:8]) == "batch_" + KEY[:8]


def test_random_keys_in_random_texts() -> None:
    chance = random.Random(5)
    letters = string.ascii_letters + string.digits + "-_./+="
    for _ in range(200):
        key = "".join(chance.choices(letters, k=chance.randint(20, 80)))
        remember_secrets([key])
        start = chance.randint(0, 5)
        shown = key[start : len(key) - chance.randint(0, 5)]
        assert shown not in scrubbed(f"x{shown}y {shown} z{shown}")
    assert len(redaction._secrets) <= 200


@pytest.mark.parametrize(
    ("message", "values", "told"),
    [
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            (),
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        ),
        ("Invalid 'messages[0].content': too long.", (), "Invalid 'messages[0].content': too long."),
        ("Invalid value: 'patient Jane Roe'.", (), "Invalid value: '…'."),
        ('Invalid value: "Jane".', (), 'Invalid value: "…".'),
        ("It isn't valid, and doesn't help: `Jane Roe`", (), "It isn't valid, and doesn't help: `…`"),
        ("Invalid value: 'patient Jane Ro", (), "Invalid value: '…"),
        ("Invalid value: patient Jane Roe is ill.", ("patient Jane Roe is ill, very ill",), "Invalid value: …."),
        ("Bad input Jane here", ("Jane",), "Bad input … here"),
        ("Expected `str`, got `null` - at `$.topic`", ("strong null",), "Expected `str`, got `null` - at `$.topic`"),
        ("Invalid 'jane_roe'.", ("jane_roe",), "Invalid '…'."),
        ("The server had an error.", ("the", ""), "The server had an error."),
    ],
)
def test_of_a_message_what_it_quotes_of_a_row_is_left_out(message: str, values: tuple[str, ...], told: str) -> None:
    assert without_values(message, values) == told


def test_names_of_parameters_that_are_known_may_be_quoted() -> None:
    message = "Unsupported parameter: 'temperature' with 'Ann'."
    assert without_values(message) == "Unsupported parameter: '…' with '…'."
    assert without_values(message, names={"temperature"}) == "Unsupported parameter: 'temperature' with '…'."
