"""The emulator as a process of its own, as a pytest plug-in, and in front of another server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx
import pytest

from airflow_openai_batch.emulator import Emulator, Upstream
from airflow_openai_batch.emulator.__main__ import main


@contextmanager
def emulator_process(*options: str, cwd=None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-W", "error", "-m", "airflow_openai_batch.emulator", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_prints_its_url_and_stops_when_told(number):
    with emulator_process("--port", "0", "--log-requests") as (url, process):
        answer = httpx.get(f"{url}/models", headers={"authorization": "Bearer x"}, timeout=10)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)

        assert url.startswith("http://127.0.0.1:") and url.endswith("/v1")
        assert answer.status_code == 200
        assert process.returncode == 0
        assert "GET /v1/models 200" in errors and "Traceback" not in errors


def test_the_process_takes_answers_and_faults_from_files(tmp_path, http):
    (tmp_path / "my_answers.py").write_text("def shout(endpoint, body):\n    return body['input'].upper()\n")
    (tmp_path / "faults.json").write_text('[{"on": "GET /v1/models", "do": {"status": 418}}]')
    options = ["--answer", "my_answers:shout", "--faults", "faults.json", "--duration", "0", "--seed", "1"]
    with emulator_process(*options, cwd=tmp_path) as (url, _):
        from openai import OpenAI

        client = OpenAI(base_url=url, api_key="x", max_retries=0, http_client=http)
        line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "psst"}}
        file = client.files.create(file=("a.jsonl", json.dumps(line).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
        batch = client.batches.retrieve(batch.id)

        assert '"PSST"' in client.files.content(batch.output_file_id or "").text
        assert httpx.get(f"{url}/models", timeout=10).status_code == 418


def test_the_process_has_a_help_text(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--queue-limit" in capsys.readouterr().out


class _OtherServer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][0]["content"]
        status = 429 if text == "busy" else 200
        usage = {"prompt_tokens": 11, "completion_tokens": 22, "prompt_tokens_details": {"cached_tokens": 5}}
        answer = {"path": self.path, "key": self.headers["authorization"], "text": text, "usage": usage}
        data = b"<html>" if text == "html" else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def other_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _OtherServer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/prefix/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_requests_are_answered_by_another_server(start, other_server):
    kit = start(answer=Upstream(other_server, "sk-up"), concurrency=4)
    texts = ["busy", "html", *(f"text {i}" for i in range(30))]
    batch = kit.ended([kit.line(text, body=kit.body(text)) for text in texts if text != "html"])
    output, errors = kit.output(batch), kit.errors(batch)

    assert len(output) == 30
    body = output["text 7"]["response"]["body"]
    assert (body["path"], body["key"], body["text"]) == ("/prefix/v1/chat/completions", "Bearer sk-up", "text 7")
    assert errors["busy"]["response"]["status_code"] == 429
    assert (batch.usage.input_tokens, batch.usage.input_tokens_details.cached_tokens) == (330, 150)
    assert kit.raw(kit.ended([kit.line("h", body=kit.body("html"))]).output_file_id) == b"<html>\n"


def test_a_server_that_is_not_there_is_the_error_of_each_line(start):
    kit = start(answer=Upstream("http://127.0.0.1:9/v1"))
    batch = kit.ended(2)

    assert {line["error"]["code"] for line in kit.errors(batch).values()} == {"upstream_unreachable"}
    with pytest.raises(ValueError, match="Not the URL"):
        Upstream("ftp://example.com")


class _ClosingServer(BaseHTTPRequestHandler):
    """Says that it keeps connections open, and closes them; some it closes before it has answered."""

    protocol_version = "HTTP/1.1"
    texts: ClassVar[list[str]] = []

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = request["messages"][0]["content"]
        self.texts.append(text)
        self.close_connection = True
        if text.startswith("crash"):
            return
        data = json.dumps({"model": "m", "choices": [], "text": text}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.send_header("connection", "keep-alive")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_a_server_that_closes_idle_connections_loses_no_row_and_is_asked_nothing_twice(start):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _ClosingServer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        kit = start(answer=Upstream(f"http://127.0.0.1:{server.server_port}/v1"), concurrency=4)
        texts = [*(f"text {i}" for i in range(100)), "crash 1", "crash 2"]
        batch = kit.ended([kit.line(text, body=kit.body(text)) for text in texts])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert set(kit.output(batch)) == {text for text in texts if text.startswith("text")}
    assert {line["error"]["code"] for line in kit.errors(batch).values()} == {"upstream_lost"}
    assert sorted(_ClosingServer.texts) == sorted(texts)


def test_the_plugin_gives_an_emulator_and_a_connection(tmp_path):
    (tmp_path / "test_user.py").write_text(
        """
import json, os, sys, urllib.request
import pytest

assert "starlette" not in sys.modules and "uvicorn" not in sys.modules, "the plug-in is heavy"

def test_default(openai_batch_emulator):
    connection = json.loads(os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"])
    assert connection == {
        "conn_type": "openai", "host": openai_batch_emulator.base_url, "password": "sk-emulator"
    }
    assert openai_batch_emulator.settings.duration == 0

@pytest.mark.openai_batch_emulator(duration=60, seed=3)
def test_marked(openai_batch_emulator):
    assert openai_batch_emulator.settings.duration == 60

def test_without():
    assert "AIRFLOW_CONN_OPENAI_DEFAULT" not in os.environ
"""
    )
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-W", "error", "-p", "no:cacheprovider"]
    plugin = ["-p", "airflow_openai_batch.emulator.pytest_plugin"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    environment.pop("AIRFLOW_CONN_OPENAI_DEFAULT", None)
    run = subprocess.run(
        [*command, *plugin, str(tmp_path)], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout


def test_a_port_that_is_in_use_is_reported_at_once():
    with Emulator() as emu, pytest.raises(OSError, match="in use"):
        Emulator(port=int(emu.base_url.split(":")[2].split("/")[0])).start()


def test_the_files_are_gone_when_the_emulator_is(tmp_path):
    with Emulator(data_dir=tmp_path) as emu:
        assert list(tmp_path.iterdir())
        assert emu.admin_url.endswith("/_emulator")
    assert not list(tmp_path.iterdir())


def test_the_emulator_needs_neither_airflow_nor_the_sdk():
    code = (
        "import sys, airflow_openai_batch.emulator as e\n"
        "assert all(getattr(e, name) for name in e.__all__)\n"
        "import airflow_openai_batch.emulator.__main__\n"
        "assert not {'airflow', 'openai', 'airflow_openai_batch.engine'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)


def test_an_unknown_name_is_no_part_of_the_package():
    import airflow_openai_batch.emulator as package

    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = package.Nonsense
