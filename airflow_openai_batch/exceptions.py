"""The exceptions that tasks raise: the engine's exceptions mapped to those of Airflow, which decide about retries."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_openai_batch.engine.errors import ApiError, EngineError, ForeignJob, StoreError, UnknownFormat


class OpenAIBatchError(AirflowException):
    """An error that a retry may cure. A retry never pays twice."""


class OpenAIBatchFailure(AirflowFailException):
    """An error that a retry would only repeat: the task fails without retry, and says what to do."""


@contextlib.contextmanager
def airflow_errors() -> Iterator[None]:
    """Raise the engine's exceptions in the block as Airflow's.

    Raises:
        OpenAIBatchError: A retry may cure the error.
        OpenAIBatchFailure: A retry would only repeat it.
    """
    try:
        yield
    except (UnknownFormat, ForeignJob) as error:
        raise OpenAIBatchFailure(str(error)) from None
    except (StoreError, ApiError) as error:
        raise OpenAIBatchError(str(error)) from error
    except EngineError as error:
        # Without cause: the message is complete, and a traceback through the engine would hide it in the task's log.
        raise OpenAIBatchFailure(str(error)) from None
