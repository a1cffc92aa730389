"""The plugin behind the page: what Airflow is told, what is served, and what it costs every process to import it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_openai_batch.ui import plugin

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "airflow_openai_batch" / "ui" / "static"
HEAVY = {"fastapi", "starlette", "openai", "pyarrow", "pandas", "msgspec", "jsonschema_rs"}


def get(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Ask the plugin's application as Airflow mounts it; the path is sent as it is."""
    app = Starlette(routes=[Mount(plugin.URL_PREFIX, plugin.LazyApp())])

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            url = httpx.URL("http://airflow").copy_with(raw_path=path.encode())
            return await client.request(method, url, headers=headers)

    return asyncio.run(ask())


def test_the_package_names_its_plugin_where_airflow_looks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name, target = next(iter(project["entry-points"]["airflow.plugins"].items()))
    module, _, class_name = target.partition(":")
    assert name == plugin.OpenAIBatchPlugin.name
    assert getattr(sys.modules[module], class_name) is plugin.OpenAIBatchPlugin


def test_airflow_accepts_the_plugin() -> None:
    from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse, FastAPIAppResponse

    plugin.OpenAIBatchPlugin.validate()
    found = [ExternalViewResponse.model_validate(view) for view in plugin.OpenAIBatchPlugin.external_views]
    assert [view.destination for view in found] == ["nav", "dag", "dag_run", "task_instance"]
    assert len({view.url_route for view in found}) == 4, "Airflow finds a view by its route alone"
    (app,) = plugin.OpenAIBatchPlugin.fastapi_apps
    assert FastAPIAppResponse.model_validate({**app, "app": str(app["app"])}).url_prefix == "/openai-batch"


@pytest.mark.parametrize(
    ("base_url", "prefix"),
    [
        ("http://localhost:8080", ""),
        ("http://localhost:8080/", ""),
        ("https://x.example/team/airflow/", "/team/airflow"),
    ],
)
def test_addresses_have_the_path_of_the_base_url(monkeypatch: pytest.MonkeyPatch, base_url: str, prefix: str) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    nav, dag, run, task = plugin.views()
    assert nav["href"] == f"{prefix}/openai-batch/"
    assert dag["href"] == f"{prefix}/openai-batch/?dag_id={{DAG_ID}}"
    assert run["href"] == f"{prefix}/openai-batch/?dag_id={{DAG_ID}}&run_id={{RUN_ID}}"
    assert task["href"] == run["href"] + "&task_id={TASK_ID}&map_index={MAP_INDEX}"
    assert nav["icon"] == f"{prefix}/openai-batch/icon.svg"


FILES = sorted(path.name for path in STATIC.iterdir())


@pytest.mark.parametrize("folder", ["", "v-0123abcd/"], ids=["by its name", "of another version"])
@pytest.mark.parametrize("file", [name for name in FILES if name != "index.html"])
def test_every_file_is_served_with_its_type_and_headers(file: str, folder: str) -> None:
    answer = get(f"/openai-batch/{folder}{file}")
    assert answer.status_code == 200
    assert answer.content == (STATIC / file).read_bytes()
    kind = {"css": "text/css", "js": "javascript", "svg": "image/svg+xml"}[file.rsplit(".")[-1]]
    assert kind in answer.headers["content-type"]
    assert answer.headers["cache-control"] == "no-cache"
    assert_is_guarded(answer)
    again = get(f"/openai-batch/{folder}{file}", **{"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


def assert_is_guarded(answer: Any) -> None:
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_names_files_that_browsers_may_keep() -> None:
    page = get("/openai-batch/")
    assert page.headers["cache-control"] == "no-cache"
    assert_is_guarded(page)
    named = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
    assert {name.partition("/")[2] for name in named} == {n for n in FILES if n not in ("index.html", "icon-dark.svg")}
    for name in named:
        answer = get(f"/openai-batch/{name}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert_is_guarded(answer)


def test_the_folder_itself_is_the_page() -> None:
    answer = get("/openai-batch/")
    assert answer.status_code == 200
    assert answer.text.startswith("<!doctype html>")


@pytest.mark.parametrize(
    "path",
    [
        "/openai-batch/nothing.js",
        "/openai-batch/../plugin.py",
        "/openai-batch/%2e%2e/plugin.py",
        "/openai-batch/..%2fplugin.py",
        "/openai-batch/%2e%2e%2f%2e%2e%2fhooks.py",
        "/openai-batch//etc/passwd",
        "/openai-batch/%00",
        "/openai-batch/.hidden",
    ],
)
def test_nothing_outside_the_folder_is_served(path: str) -> None:
    assert get(path).status_code == 404


def test_an_airflow_that_cannot_tell_who_may_see_samples_still_has_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_openai_batch import ui
    from airflow_openai_batch.ui import app

    monkeypatch.delattr(ui, "sample")
    monkeypatch.setitem(sys.modules, "airflow_openai_batch.ui.sample", None)
    monkeypatch.setattr(app, "app", app.make_app())
    assert get("/openai-batch/").status_code == 200
    assert get("/openai-batch/sample/dag?run_id=r&task_id=t").status_code == 404


def test_files_can_only_be_read() -> None:
    assert get("/openai-batch/page.js", "POST").status_code == 405


def test_importing_the_plugin_is_almost_free() -> None:
    # What Airflow has imported by then does not count, and neither does its lazy loading of settings.
    code = """
import json, sys, time
import airflow.plugins_manager
from airflow.providers.common.compat.sdk import conf
conf.get("api", "base_url", fallback="/")
before = set(sys.modules)
started = time.process_time()
import airflow_openai_batch.ui.plugin
took_s = time.process_time() - started
print(json.dumps({"new": sorted(set(sys.modules) - before), "took_s": took_s}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(found["new"]) <= {"airflow_openai_batch", "airflow_openai_batch.ui", "airflow_openai_batch.ui.plugin"}
    assert not HEAVY & set(found["new"])
    assert found["took_s"] < 0.05


def test_the_page_needs_no_inline_script_or_style() -> None:
    html = (STATIC / "index.html").read_text()
    assert html.count("<script") == html.count('<script type="module" src=') == 1
    for forbidden in ("<style", " style=", "javascript:", " onclick", " onload", "http://", "https://"):
        assert forbidden not in html, forbidden


def test_the_page_never_reads_data_as_html() -> None:
    for script in STATIC.glob("*.js"):
        text = script.read_text()
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert forbidden not in text, f"{forbidden} in {script.name}"


def test_the_wheel_has_every_file_of_the_page_and_every_example(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uv", "build", "--wheel", "--quiet", "--out-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"airflow_openai_batch/ui/static/{path.name}" for path in STATIC.iterdir()}
    wanted |= {f"airflow_openai_batch/demo/dags_examples/{path.name}" for path in ROOT.glob("dags_examples/*.py")}
    assert wanted <= names
    assert "airflow_openai_batch/ui/plugin.py" in names
