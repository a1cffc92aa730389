"""Where Airflow's processes send facts: servers of our own that keep them."""

from __future__ import annotations

import http.server
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from statsd_listener import StatsdListener


class Collector:
    """An OpenTelemetry collector as far as exporters know: it takes spans over HTTP and keeps them."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        spans = self.spans

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest()
                sent.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                spans.extend(span for r in sent.resource_spans for s in r.scope_spans for span in s.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What makes an Airflow send its spans here."""
        return {
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def parents(self, trace_of: str) -> dict[str, set[str]]:
        """Return the names of the spans right above each of ours, by its name.

        Args:
            trace_of: The name of a span; others are heeded only if they are in a trace with one of this name.
        """
        traces = {span.trace_id for span in self.spans if span.name == trace_of}
        names = {span.span_id: span.name for span in self.spans}
        parents: dict[str, set[str]] = {}
        for span in self.spans:
            if span.name.startswith("openai_batch.") and span.trace_id in traces:
                parents.setdefault(span.name, set()).add(names.get(span.parent_span_id, "nothing"))
        return parents


@dataclass(frozen=True)
class Outlets:
    """All outlets, OpenLineage's file among them."""

    statsd: StatsdListener
    collector: Collector
    lineage: Path
