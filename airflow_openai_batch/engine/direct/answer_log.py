"""The answers to synchronous requests of a shard, kept in the store as they come, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airflow_openai_batch.engine.answers.parser import LineParser, custom_id_of
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.model import BILLED, Cost, ServiceTier, Status, Usage
from airflow_openai_batch.engine.money.prices import Prices, tier_of
from airflow_openai_batch.engine.store.job_store import JobStore

_PAUSES_S = (1.0, 3.0, 10.0, 30.0)
"""Pauses after which a file is written again: what it holds is paid for."""

_MAX_FILES, _MAX_BYTES = 200, 32 * 1024 * 1024
"""Small files, and bytes of them, that are put together in one."""


class AnswerLog:
    """The answers of one shard, in write-once files; some small files are replaced by a large one from time to time.

    Attributes:
        ids: The custom_ids of the requests that have an answer, or an error that is final.
        usage: The tokens of the answers.
        cost: What they cost.

    Args:
        store: The job's store.
        shard: The shard's id.
        parser: Reads the answers.
        prices: What models cost.
        asked: The model that the requests name.
        tier: The service tier in which they are asked.
    """

    def __init__(
        self, store: JobStore, shard: str, parser: LineParser, prices: Prices, asked: str | None, tier: ServiceTier
    ) -> None:
        self.ids: set[str] = set()
        self.usage, self.cost = Usage(), Cost()
        self._store, self._shard, self._parser = store, shard, parser
        self._prices, self._asked, self._tier = prices, asked, tier
        self._small: list[str] = []
        self._lines: list[bytes] = []
        self._n_bytes = 0

    def read(self) -> None:
        """Count what other processes have saved.

        Raises:
            StoreError: The store cannot be read.
        """
        for name in self._store.answer_files(self._shard):
            with self._store.open(name) as file:
                for line in file:
                    self._count(line)

    def save(self, lines: Sequence[bytes], sleep: Callable[[float], None]) -> None:
        """Save answers that have come, in a file of their own.

        Args:
            lines: Their lines, as in the output file of a batch.
            sleep: Waits so many seconds before the file is written again.

        Raises:
            StoreError: The store could not be written for most of a minute.
        """
        name, content = self._store.new_name("answers", self._shard), b"".join(lines)
        for pause_s in (*_PAUSES_S, None):
            try:
                self._store.create(name, content)
                break
            except StoreError:
                if pause_s is None:
                    raise
                sleep(pause_s)
        for line in lines:
            self._count(line)
        self._small.append(name)
        self._lines += lines
        self._n_bytes += len(content)
        if len(self._small) >= _MAX_FILES or self._n_bytes >= _MAX_BYTES:
            self._put_together()

    def _put_together(self) -> None:
        """Replace the small files by one. Between the two steps each answer is there twice, which does no harm."""
        names, lines = self._small, self._lines
        self._small, self._lines, self._n_bytes = [], [], 0
        if len(names) < 2:
            return
        with self._store.writing(self._store.new_name("answers", self._shard, "merged")) as file:
            file.writelines(lines)
        for name in names:
            self._store.remove(name)

    def _count(self, line: bytes) -> None:
        custom_id = custom_id_of(line)
        outcome = self._parser.parse(line)
        if custom_id is None or custom_id in self.ids:
            return
        self.ids.add(custom_id)
        if outcome is None or outcome.status not in BILLED:
            return
        self.usage += outcome.usage
        tariff = self._prices.tariff(self._asked, outcome.model, tier_of(self._tier))
        amount = tariff.cost(outcome.usage) if tariff is not None and outcome.usage != Usage() else None
        is_bad = outcome.status is not Status.SUCCEEDED
        self.cost += (
            Cost(n_unknown=1) if amount is None else Cost(picodollars=amount, bad_picodollars=amount if is_bad else 0)
        )
