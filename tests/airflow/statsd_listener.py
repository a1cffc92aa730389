"""A real statsd server as far as its clients know: it takes datagrams and keeps what they say."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, Self


def set_up_stats(back_end: Callable[[], Any] | None = None) -> None:
    """Set up Airflow's Stats anew: with a back end of the test's own, or as the settings say."""
    from airflow.providers.common.compat.sdk import Stats

    try:
        from airflow.sdk.observability.metrics import stats_utils
    except ImportError:  # Airflow 3.1, which reads the settings when it makes the class
        made_by = type(Stats)
        del made_by.factory
        made_by.__init__(Stats)
        if back_end is not None:
            made_by.factory = staticmethod(back_end)
        Stats.instance = None
    else:
        Stats.initialize(factory=back_end or stats_utils.get_stats_factory(), export_legacy_names=False)


class Received(NamedTuple):
    """One line of a datagram."""

    name: str
    value: float
    kind: str
    tags: dict[str, str]


class StatsdListener:
    """Listens on a free port of the loopback interface."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self.texts: list[str] = []

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def environment(self) -> dict[str, str]:
        """What makes an Airflow send its metrics here."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self.port),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._is_over.is_set():
            try:
                self.texts.append(self._socket.recv(65536).decode())
            except TimeoutError:
                continue

    def received(self, prefix: str = "airflow.openai_batch.") -> list[Received]:
        """Return what has come so far, without Airflow's own prefix."""
        found = []
        for line in "\n".join(self.texts).splitlines():
            left, _, kind = line.partition("|")
            named, _, value = left.rpartition(":")
            name, *tags = named.split(",")
            if name.startswith(prefix):
                pairs = dict(tag.split("=", 1) for tag in tags)
                found.append(Received(name.removeprefix("airflow."), float(value), kind.partition("|")[0], pairs))
        return found

    def counts(self, **tags: str) -> dict[str, int]:
        """Return the sums of the counters that have these tags."""
        sums: Counter[str] = Counter()
        for one in self.received():
            if one.kind == "c" and tags.items() <= one.tags.items():
                sums[one.name.removeprefix("openai_batch.")] += int(one.value)
        return dict(sums)

    def wait_until(self, is_so: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, self.texts[-50:]
            time.sleep(0.05)
