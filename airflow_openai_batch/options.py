"""Small frozen values that operators take where one plain argument does not say enough."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING

import msgspec

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.csv_files import CsvFile

if TYPE_CHECKING:
    from airflow_openai_batch.engine.model import ServiceTier

__all__ = ["CsvFile", "FinishBy", "Reuse"]


class Reuse(msgspec.Struct, frozen=True):
    """A ledger whose answers are used again, instead of paying for the same requests once more.

    Args:
        name: Its name. Jobs that name the same ledger, in the same storage, share their good answers.
        max_age: How old an answer may be; at most 400 days.
    """

    name: str
    max_age: datetime.timedelta = datetime.timedelta(days=90)

    def __post_init__(self) -> None:
        # A Dag file is not checked by anybody.
        given: tuple[object, object] = (self.name, self.max_age)
        if not isinstance(given[0], str) or not isinstance(given[1], datetime.timedelta):
            raise InputError("reuse: give the name of a ledger, or Reuse(name, max_age=datetime.timedelta(days=90)).")


# Compiled at first use, so that a Dag file that imports the operators does not pay for it.
_TIME = r"\d{1,2}:\d{2}(:\d{2})?"

_FINISH_BY = (
    "give a time such as '06:00' (in the Dag's timezone), a datetime or the ISO text of one, or a datetime.timedelta "
    "after the submission"
)


class FinishBy(msgspec.Struct, frozen=True):
    """The moment from which rows without an answer are asked synchronously, so that all have one soon after.

    Batches that run then are cancelled, and what they have answered is used. Synchronous requests cost more than those
    of a batch: twice as much in the service tier ``default``, as much in ``flex``, which may be slow.

    Args:
        at: ``"06:00"``, the next such time after the submission in the Dag's timezone; a datetime or the ISO text of
            one, in the Dag's timezone if it has none of its own; or a timedelta after the submission. A text may be a
            template.
        tier: OpenAI's service tier in which they are asked: ``default`` or ``flex``.
        parallel: How many requests may be on their way at once, 1 to 256. So many may be paid twice if a worker is
            killed while it asks.
    """

    at: str | datetime.datetime | datetime.timedelta
    tier: ServiceTier = "default"
    parallel: int = 8

    def __post_init__(self) -> None:
        # A Dag file is not checked by anybody.
        at: object = self.at
        if not isinstance(at, str | datetime.datetime | datetime.timedelta):
            raise InputError(f"finish_by: {_FINISH_BY}, not {type(at).__name__}.")
        if isinstance(at, datetime.timedelta) and at <= datetime.timedelta(0):
            raise InputError(f"finish_by: the timedelta must be more than 0, is {at}.")
        if self.tier not in ("default", "flex"):
            raise InputError(f"finish_by: tier must be 'default' or 'flex', not {self.tier!r}.")
        n: object = self.parallel
        if not isinstance(n, int) or isinstance(n, bool):
            raise InputError(f"finish_by: parallel must be a whole number, not {n!r}.")

    def moment(self, now: float, timezone: datetime.tzinfo) -> float:
        """Return the moment in epoch seconds.

        Args:
            now: The time of the submission, in epoch seconds.
            timezone: The Dag's timezone.

        Raises:
            InputError: The text is neither a time nor a datetime.
        """
        at = parsed_moment(self.at) if isinstance(self.at, str) else self.at
        if isinstance(at, datetime.timedelta):
            return now + at.total_seconds()
        if isinstance(at, datetime.datetime):
            return (at if at.tzinfo is not None else at.replace(tzinfo=timezone)).timestamp()
        today = datetime.datetime.fromtimestamp(now, timezone).date()
        days = (today + datetime.timedelta(days=n) for n in range(3))
        moments = (datetime.datetime.combine(day, at, timezone).timestamp() for day in days)
        return next(moment for moment in moments if moment > now)

    def text(self, timezone: datetime.tzinfo) -> str:
        """Return the same for a person, and to compare with another setting: ``06:00 Europe/Berlin``."""
        if isinstance(self.at, datetime.timedelta):
            return f"{self.at} after the submission"
        if isinstance(self.at, datetime.datetime):
            return self.at.isoformat() if self.at.tzinfo is not None else f"{self.at.isoformat()} {timezone}"
        return f"{self.at} {timezone}"


def parsed_moment(text: str) -> datetime.time | datetime.datetime:
    """Return the time, or the datetime, that a text stands for.

    Raises:
        InputError: It stands for neither.
    """
    text = text.strip()
    try:
        if re.fullmatch(_TIME, text):
            return datetime.time.fromisoformat(text.zfill(5) if text.count(":") == 1 else text.zfill(8))
        if ":" in text:
            return datetime.datetime.fromisoformat(text)
    except ValueError:
        pass
    raise InputError(f"finish_by={text!r}: {_FINISH_BY}.")
