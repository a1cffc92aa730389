"""The hook: clients of OpenAI from an Airflow connection, and the storage of jobs from the configuration."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec
from airflow.providers.common.compat.sdk import BaseHook, ObjectStoragePath, conf

from airflow_openai_batch import settings
from airflow_openai_batch.engine.endpoints import ENDPOINTS_EXTRA, REQUIRED
from airflow_openai_batch.engine.errors import InputError, StoreError

if TYPE_CHECKING:
    from airflow.providers.openai.hooks.openai import OpenAIHook
    from openai import AsyncOpenAI, OpenAI

_LOCAL_EXECUTORS = ("LocalExecutor", "SequentialExecutor")

# One client for each event loop and connection: creating a client blocks the loop for 20 to 90 ms.
_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, AsyncOpenAI]] = weakref.WeakKeyDictionary()


class OpenAIBatchHook(BaseHook):
    """Clients of the ``openai`` SDK from a connection of type ``openai``.

    The connection type belongs to ``apache-airflow-providers-openai`` and is used unchanged: the password is the API
    key, the host is the base URL, the extra ``openai_client_kwargs`` may hold ``organization``, ``project`` and any
    other argument of the client, and ``auth_type`` may be ``workload_identity``. Two keys of the extra are ours:
    ``batch_endpoints`` lists endpoints that the server has besides OpenAI's, and ``azure_identity`` (``default``, or a
    scope) signs in to Azure OpenAI with Microsoft Entra in place of a key.

    Args:
        conn_id: The connection.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "openai_default"
    conn_type = "openai"
    hook_name = "OpenAI"

    def __init__(self, conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.conn_id = conn_id

    def get_conn(self) -> OpenAI:
        """Return a client.

        Raises:
            AirflowNotFoundException: There is no such connection.
            InputError: It can be seen that no call with it can succeed; the message says what to change.
        """
        from airflow_openai_batch.engine.api.connection import connected

        _quiet_http()
        return connected(_openai_hook()(conn_id=self.conn_id).get_conn)

    async def get_async_conn(self) -> AsyncOpenAI:
        """Return the client that all triggers of this connection on the event loop share, without retries.

        Raises:
            AirflowNotFoundException: There is no such connection.
        """
        loop = asyncio.get_running_loop()
        clients = _clients.setdefault(loop, {})
        if self.conn_id not in clients:
            _quiet_http()
            # The first import of the SDK takes a second or more, in which the other triggers would be blocked.
            hook_class = await asyncio.to_thread(_openai_hook)
            client = await hook_class(conn_id=self.conn_id).aget_conn()
            from airflow_openai_batch.engine.api.transport import bounded

            clients.setdefault(self.conn_id, bounded(client))
        return clients[self.conn_id]

    def other_endpoints(self, endpoint: str) -> tuple[str, ...]:
        """Return the endpoints that the connection's server has besides OpenAI's, by the extra ``batch_endpoints``.

        Args:
            endpoint: The one that is asked for. If it is OpenAI's, the connection is not looked up.

        Raises:
            AirflowNotFoundException: There is no such connection.
            InputError: The extra is no list of paths.
        """
        if endpoint in REQUIRED:
            return ()
        others = self.get_connection(self.conn_id).extra_dejson.get(ENDPOINTS_EXTRA) or []
        if not isinstance(others, list) or not all(isinstance(path, str) and path.startswith("/") for path in others):
            raise InputError(
                f'The connection\'s extra has "{ENDPOINTS_EXTRA}": {others!r}. It is a list of paths, for example '
                '["/v1/rerank"]. Nothing was sent.'
            )
        return tuple(others)

    def forget_async_conn(self) -> None:
        """Forget the shared client, so that the next one is built from the current connection."""
        _clients.get(asyncio.get_running_loop(), {}).pop(self.conn_id, None)

    def test_connection(self) -> tuple[bool, str]:
        """Test the calls that a job needs (seen: a restricted key needs scopes for batches and for files).

        A batch and a file are asked for that do not exist. That OpenAI does not know them shows that it would answer:
        no listing is needed, which some servers and some keys do not have.

        Returns:
            Whether all calls succeeded, and a message.
        """
        from airflow_openai_batch.engine.api.connection import check_access
        from airflow_openai_batch.engine.errors import ApiError

        try:
            check_access(self.get_conn())
        except (ApiError, InputError) as error:  # shown to the person who pressed the button
            return False, str(error)
        return True, "Batches and files can be read."


def _openai_hook() -> type[OpenAIHook]:
    """Return the hook that owns the connection type, and import the other modules that a trigger needs."""
    from airflow.providers.openai.hooks.openai import OpenAIHook

    import airflow_openai_batch.engine.answers.harvest
    import airflow_openai_batch.engine.api.client  # noqa: F401
    from airflow_openai_batch.entra import EXTRA, async_token_provider, token_provider

    class Hook(OpenAIHook):
        """The owner's hook, whose clients sign in with Entra if the connection says so."""

        is_async = False

        async def aget_conn(self) -> AsyncOpenAI:
            self.is_async = True
            return await super().aget_conn()

        def _client_kwargs(self, conn: Any, extras: dict[str, Any]) -> dict[str, Any]:
            if not extras.get(EXTRA):
                return super()._client_kwargs(conn, extras)
            # A key would go before the token; the owner's hook wants one in any case.
            client_kwargs = {**extras.get("openai_client_kwargs", {}), "api_key": "entra"}
            extras = {**extras, "auth_type": "api_key", "openai_client_kwargs": client_kwargs}
            arguments = super()._client_kwargs(conn, extras)
            return {**arguments, "api_key": (async_token_provider if self.is_async else token_provider)(extras)}

    return Hook


_CHATTY = ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "azure", "adlfs", "botocore", "aiobotocore", "google")
"""Loggers of HTTP and storage libraries, which log each request. Seen: 2,479 of the 2,576 lines of a task's log."""


def _quiet_http() -> None:
    """Keep the libraries from logging every request to the task's log, unless the user has set a level."""
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def storage_root(storage: str | None = None) -> Any:
    """Return the root path of job stores: the argument, the option ``[openai_batch] storage``, or a default.

    Args:
        storage: A URI or local path; None for the option.

    Raises:
        StoreError: The default is this machine's disk, and the executor runs tasks on several machines; or the place is
            a relative path, or has a scheme that this installation cannot open.
    """
    _quiet_http()
    what, place = (
        ("The argument", storage) if storage else ("The option [openai_batch]", settings.STORAGE.get().strip())
    )
    if place:
        if is_relative(place):
            raise StoreError(
                f"{what} storage is {place!r}, a relative path: each of Airflow's processes would look in another "
                "folder, and pay again for what it does not find. Nothing was sent to OpenAI. Give an absolute path, "
                "or a URI such as s3://conn@bucket/prefix."
            )
        return as_path(place)
    executors = [name.strip().rpartition(".")[2] for name in conf.get("core", "executor", fallback="").split(",")]
    if any(name.rpartition(":")[2] not in _LOCAL_EXECUTORS for name in executors if name):
        raise StoreError(
            f"The executor ({', '.join(executors)}) runs tasks on several machines, but the job store is on this "
            "machine's disk. Nothing was sent to OpenAI. Set [openai_batch] storage to a place that all workers share, "
            "for example s3://conn@bucket/prefix or a mounted file:///shared/openai_batch."
        )
    home = os.path.expanduser(os.environ.get("AIRFLOW_HOME", "~/airflow"))
    return as_path(f"{home}/openai_batch")


def is_relative(place: str) -> bool:
    """Return whether a place is a path that means another file in each process, by the folder it was started in.

    ``file://jobs`` is one too: two slashes make no absolute path.
    """
    scheme, mark, rest = without_connection(place).partition("://")
    is_local = not mark or scheme in ("file", "local")
    return is_local and not os.path.isabs(os.path.expanduser(rest if mark else place))


def as_path(text: str) -> Any:
    """Return a URI or a local path as an ``ObjectStoragePath``. ``s3://conn@bucket/key`` names a connection.

    Raises:
        StoreError: The URI's scheme is not known, or the library that opens it is not installed.
    """
    scheme, mark, _ = text.partition("://")
    if not mark:
        return ObjectStoragePath(f"file://{os.path.abspath(os.path.expanduser(text))}")
    from airflow.sdk.io import has_fs

    library = _LIBRARIES.get(scheme)
    if library is not None and (find_spec(library.module) is None or not has_fs(scheme)):
        raise StoreError(
            f"{scheme}:// needs a library that is not installed ({library.module}, and Airflow's provider for it). No "
            "answer is lost. Install both on all workers, the triggerer and the API server: "
            f"pip install 'airflow-openai-batch[{library.extra}]'."
        )
    if not has_fs(scheme):
        raise StoreError(
            f"{without_connection(text)!r} cannot be opened: no installed provider of Airflow has a file system for "
            f"{scheme}://. Correct the scheme (file, s3, gs, abfs), or install the provider on all workers, the "
            "triggerer and the API server; no answer is lost."
        )
    return ObjectStoragePath(text)


class _Library(msgspec.Struct, frozen=True):
    module: str
    extra: str
    """The package's extra that installs it."""


_LIBRARIES = {
    **dict.fromkeys(("s3", "s3a"), _Library("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), _Library("gcsfs", "gcs")),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), _Library("adlfs", "azure")),
}
"""What opens the URIs of a scheme."""


def without_connection(place: str) -> str:
    """Return a URI without its connection (``s3://conn@bucket/key``). Azure's ``container@account`` is kept."""
    scheme, mark, rest = place.partition("://")
    host, slash, path = rest.partition("/")
    if not mark or host.endswith(".windows.net"):
        return place
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
