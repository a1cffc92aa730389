"""The exceptions that tasks raise: the engine's exceptions mapped to those of Airflow, which decide about retries."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_openai_batch.engine.errors import (
    ApiError,
    DatabaseError,
    EngineError,
    ForeignJob,
    JobCleaned,
    StoreError,
    UnknownFormat,
)

if TYPE_CHECKING:
    from airflow_openai_batch.engine.progress.model import Progress


class Reason(StrEnum):
    """Why a task of ours failed, for callbacks that do one thing or another."""

    BAD_ROWS = "bad_rows"
    """The results are written, and worse than the job's thresholds allow."""
    HELD = "held"
    """The job needs manual intervention: nothing more is sent before a person acts."""
    MAX_COST = "max_cost"
    """It is held, as what is left does not fit under its cap."""
    PILOT = "pilot"
    """It is held, as the rows that were asked first did not go well."""
    PROBE = "probe"
    """It is held, as the row that was asked first was refused."""
    LATE = "late"
    """It is held, as its deadline has passed; what runs at OpenAI runs on."""
    TIMEOUT = "timeout"
    """Airflow's own timeout of the task has passed: a sensor's ``timeout``, or ``execution_timeout``."""
    REFUSED = "refused"
    """Something that was given, set or stored cannot be used as it is."""
    PASSING = "passing"
    """An error that may pass by itself, such as an outage that lasted longer than all retries."""
    OTHER = "other"
    """Not an error of ours: an exception of Airflow, or of a Dag author's own function."""


class OpenAIBatchError(AirflowException):
    """An error that a retry may cure. A retry never pays twice.

    Attributes:
        reason: Always ``Reason.PASSING``.
    """

    reason = Reason.PASSING


class OpenAIBatchFailure(AirflowFailException):
    """An error that a retry would only repeat: the task fails without retry, and says what to do.

    Args:
        message: What is wrong, and what to do.
        reason: Why the task fails, for callbacks; see ``notifications``.
        progress: How the job stands, as ``engine.progress.model.Progress``, where there is one.
    """

    def __init__(self, message: str = "", reason: Reason = Reason.REFUSED, progress: Progress | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.progress = progress


@contextlib.contextmanager
def airflow_errors() -> Iterator[None]:
    """Raise the engine's exceptions in the block as Airflow's.

    Raises:
        OpenAIBatchError: A retry may cure the error.
        OpenAIBatchFailure: A retry would only repeat it.
    """
    try:
        yield
    except (UnknownFormat, ForeignJob, JobCleaned) as error:
        raise OpenAIBatchFailure(str(error)) from None
    except (StoreError, ApiError) as error:
        raise OpenAIBatchError(str(error)) from error
    except DatabaseError as error:
        # Without cause: what the driver says may quote rows.
        raise OpenAIBatchError(str(error)) from None
    except EngineError as error:
        # Without cause: the message is complete, and a traceback through the engine would hide it in the task's log.
        raise OpenAIBatchFailure(str(error)) from None
