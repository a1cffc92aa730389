"""The single map from the engine's errors to Airflow's, and so to what a retry does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_openai_batch.engine.errors import ApiError, EngineError, StoreError, UnknownFormat


class OpenAIBatchError(AirflowException):
    """Something that a retry may mend; a retry never pays twice."""


class OpenAIBatchFailure(AirflowFailException):
    """Something that a retry would only repeat: the task fails at once and says what to do."""


@contextlib.contextmanager
def airflow_errors() -> Iterator[None]:
    """Raise the engine's errors as Airflow's."""
    try:
        yield
    except UnknownFormat as error:
        raise OpenAIBatchFailure(str(error)) from None
    except (StoreError, ApiError) as error:
        raise OpenAIBatchError(str(error)) from error
    except EngineError as error:
        # The message is complete, and a traceback through the engine would only hide it in the task's log.
        raise OpenAIBatchFailure(str(error)) from None
