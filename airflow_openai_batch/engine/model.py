"""The words of the engine as values: job, shard, batch, policy, outcome. Frozen, and stored as JSON as they are."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Literal

import msgspec

FORMAT_VERSION = 2
"""Version of the stored state. Raised when stored bytes change their meaning."""

LEDGER_DAYS = 400
"""How long an entry of a ledger is kept."""

RESULT_COLUMNS = (
    "custom_id",
    "status",
    "output",
    "error_code",
    "error_message",
    "finish_reason",
    "model",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost",
    "via",
    "batch_id",
    "request_id",
    "round",
    "reused_from",
)
"""The columns that every result row has besides the input columns, in their order."""


class Status(StrEnum):
    """What became of one row."""

    SUCCEEDED = "succeeded"
    INVALID = "invalid"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    MISSING = "missing"
    SKIPPED = "skipped"
    """Its prompt held nothing, so it was not sent."""


BILLED = frozenset({Status.SUCCEEDED, Status.INVALID, Status.REFUSED, Status.TRUNCATED})
"""Outcomes with an answer, good or not. OpenAI bills those; failed, expired and unanswered requests cost nothing."""

GOOD = ("succeeded", "skipped")
"""Statuses of rows of which nothing more is wanted: a good answer, or none wanted from the beginning."""


class State(StrEnum):
    """What the store remembers of a shard. The order of a life without trouble is the order here."""

    DRAFTED = "drafted"
    PLANNED = "planned"
    UPLOADED = "uploaded"
    CREATING = "creating"
    RUNNING = "running"
    ASKING = "asking"
    """Its requests are asked synchronously, one by one."""
    ENDED = "ended"
    REJECTED = "rejected"
    SETTLED = "settled"


UNSENT = frozenset({State.DRAFTED, State.PLANNED, State.UPLOADED})

QUEUED = frozenset({State.PLANNED, State.UPLOADED})

AT_OPENAI = frozenset({State.CREATING, State.RUNNING})

ServiceTier = Literal["default", "flex"]
"""OpenAI's `service_tier` of a synchronous request."""

ENDED_STATUSES = frozenset({"completed", "expired", "cancelled", "failed"})
"""Statuses after which a batch does not change. Any other, known or not, counts as still running."""

NOTHING_TO_CANCEL = ENDED_STATUSES | {"cancelling"}
"""Statuses of a batch that needs no cancel."""


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of everything that is stored: immutable, compared by content, defaults left out of the JSON."""


class JobKey(Value, frozen=True, kw_only=True):
    """Who a job belongs to. The try number is deliberately no part of it: a retry is the same job."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1


class Spec(Value, frozen=True, kw_only=True):
    """What is asked of every row. When its digest changes, the requests are compared with those that were planned."""

    endpoint: str
    body: str
    """Canonical JSON of the template, a mark for a callable, or empty for ready-made request lines."""
    custom_id: str | None = None
    schema: dict[str, Any] | None = None
    schema_name: str | None = None
    column_prefix: str | None = None
    """What stands in front of the names of the answers' fields in the result columns."""
    on_null: Literal["send", "skip", "fail"] = "send"
    """What is done with rows whose prompt holds nothing of them. Jobs of earlier versions sent them."""


class Policy(Value, frozen=True, kw_only=True, omit_defaults=False):
    """What the user allows and demands. Set on submit, stored in the job, obeyed by whoever advances it.

    Stored whole: a later default must not change a job that runs.
    """

    max_rounds: int = 2
    """How often a row may be asked again after the first time."""
    retry_on: frozenset[Status] = frozenset()
    """Outcomes that are asked again besides those that may pass by themselves: invalid, refused, truncated."""
    max_bad_ratio: float = 0.05
    """The largest share of rows without a good answer that is still green, 0 to 1."""
    max_bad_rows: int | None = None
    """The largest number of rows without a good answer that is still green; None for no such limit."""
    deadline_s: float = 72 * 3600.0
    """Seconds after submission at which waiting ends; never earlier than a running batch's own expiry."""
    max_enqueued_tokens: int | None = None
    """Estimated input tokens that this job may have in OpenAI's queue at once."""
    cancel_on_kill: bool = True
    """Whether marking the waiting task failed cancels its batches."""
    completion_window: str = "24h"
    """OpenAI accepts only 24h; compatible servers have others."""
    pilot_rows: int | None = None
    """How many rows of each model are sent first and alone; None for no such pilot."""
    max_cost: int | None = None
    """The most that all answers of the job may cost, in picodollars; None for no cap."""
    reuse: str | None = None
    """The ledger whose answers are used again, and to which those of the job are added; None for no ledger."""
    reuse_max_age_s: float = 90 * 24 * 3600.0
    """How old an answer may be that is used again, in seconds."""
    probe: bool = False
    """Whether one row is asked synchronously before anything is uploaded."""
    files_expire_after_s: int | None = None
    """Seconds after which OpenAI deletes each file of the job, counted from its creation; None for OpenAI's 30 days."""
    delete_files: bool | None = None
    """Whether the job's files at OpenAI are deleted once its results are written; None is no, after the option."""
    finish_by: str | None = None
    """When all rows shall have an answer, as the user set it; ``Job.finish_at`` is the moment. None for no such."""
    finish_tier: ServiceTier = "default"
    """The service tier in which the rest is asked synchronously from that moment on."""
    finish_parallel: int = 8
    """How many of these requests may be on their way at once."""
    prices: dict[str, Any] = {}
    """Prices that go before those that the package ships, as ``money.prices.parse_prices`` reads them."""
    has_openais_prices: bool = True
    """Whether the prices that the package ships hold: not for Azure, where requests name deployments."""
    metadata: dict[str, str] = {}
    """Pairs added to the metadata of every batch, for the user's own searches."""


class Usage(Value, frozen=True, kw_only=True, gc=False):
    """Tokens, as OpenAI counted them."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


class Cost(Value, frozen=True, kw_only=True, gc=False):
    """What answers cost, in picodollars (a millionth of a millionth of a US dollar), as far as prices are known."""

    picodollars: int = 0
    bad_picodollars: int = 0
    """Of these, for answers that are not good."""
    saved_picodollars: int = 0
    """How much more the same answers cost synchronously."""
    n_unknown: int = 0
    """Answers whose cost is not known, and not in the sums."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


class LineError(Value, frozen=True, kw_only=True, gc=False):
    """A batch-level error: many lines can share one, so it is kept once with an example."""

    code: str
    message: str
    n: int = 1
    line: int | None = None
    """1-based number of the first line concerned."""
    param: str | None = None
    custom_id: str | None = None
    """The custom_id of that line."""


class Batch(Value, frozen=True, kw_only=True, gc=False):
    """What is known of one batch at OpenAI. Ids are opaque text; an absent id is None, never an empty string."""

    id: str
    status: str
    created_at: float | None = None
    expires_at: float | None = None
    in_progress_at: float | None = None
    """When it was validated and began to run; None in jobs of older versions."""
    finalizing_at: float | None = None
    """When all its requests were through and its files were being written."""
    ended_at: float | None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    n_total: int = 0
    n_completed: int = 0
    n_failed: int = 0
    nonce: str | None = None
    errors: tuple[LineError, ...] = ()
    is_local_time: bool = False
    """Whether ``created_at`` came without a zone: it was read as UTC and may be many hours off."""


class Upload(Value, frozen=True, kw_only=True):
    """The batch input file at OpenAI, and how hard it was to get it there."""

    file_id: str | None = None
    n_uploads: int = 0
    """Uploads, without those that only replaced a file before it expired."""
    n_refused: int = 0
    """Times that the upload was refused."""
    n_misses: int = 0
    """Times that OpenAI said it cannot find the file."""
    at: float | None = None
    """When it was uploaded, in epoch seconds; None if that is not known."""
    lifetime_s: float | None = None
    """Seconds after which OpenAI deletes it; None if that is not known."""
    replaced: tuple[str, ...] = ()
    """Ids of files that were uploaded for the shard before."""

    @property
    def file_ids(self) -> tuple[str, ...]:
        """All files that were uploaded for the shard, as far as they are known."""
        return self.replaced if self.file_id is None else (*self.replaced, self.file_id)


class Intent(Value, frozen=True, kw_only=True):
    """A batch that is about to be created, committed before the call: a crash, or a lost answer, cannot hide it."""

    nonce: str
    """Value of the batch's metadata by which it is found in a listing."""
    at: float
    """Epoch seconds."""
    n_looks: int = 0
    """How often it was looked for."""


class Backoff(Value, frozen=True, kw_only=True):
    """When a shard may be acted on again."""

    not_before: float = 0.0
    """Epoch seconds before which nothing is done: pauses and grace periods are data, not sleeps."""
    n_waits: int = 0
    """Times in a row that the queue was full or a call could not be made; sets the pause."""
    n_full: int = 0
    """Times in a row that OpenAI said that its queue is full."""


class OutcomePart(Value, frozen=True, kw_only=True):
    """The outcomes of a shard's rows: the file that holds them, and what they add up to."""

    name: str
    """Parquet file in the store, in row order."""
    unmatched: str | None = None
    """File of output lines that belong to no row of the shard or could not be read, verbatim."""
    tally: dict[Status, int] = {}
    """Rows by outcome."""
    retryable: dict[Status, int] = {}
    """Of these, the rows that deserve another answer."""
    usage: Usage = Usage()
    cost: Cost = Cost()


class Evidence(Value, frozen=True, kw_only=True):
    """What was downloaded of a batch whose missing rows cannot be proven to have no answer."""

    since: float
    """Epoch seconds of the first download."""
    reason: str
    """Why it proves nothing, for a person."""
    raw: tuple[str, ...] = ()
    """The downloaded files in the store, verbatim."""
    digest: str = ""
    """A digest of the files that were downloaded last."""
    n_absent: int | None = None
    """The rows without a line in anything that was downloaded so far; None in jobs of older versions."""


class DirectAnswers(Value, frozen=True, kw_only=True):
    """How far the synchronous asking of a shard's requests has come. The answers are files in the store."""

    began_at: float
    """When the first was asked, in epoch seconds."""
    tier: ServiceTier = "default"
    n_done: int = 0
    """Requests that have an answer, or an error that is final."""
    usage: Usage = Usage()
    cost: Cost = Cost()


class Lease(Value, frozen=True, kw_only=True):
    """Which process may ask a job's requests synchronously. It is committed before the first, and renewed."""

    owner: str
    """A text that no other process has."""
    shard: str
    """The id of the shard that it asks."""
    parallel: int
    """How many requests it may have on their way at once."""
    renewed_at: float
    """Epoch seconds. A process whose lease is old has died, or must ask nothing more."""


class CarriedAnswers(Value, frozen=True, kw_only=True):
    """Good answers to rows of the shard that were paid for before: by an earlier epoch, or by another job."""

    name: str
    """Parquet file in the store, in row order."""
    n_rows: int
    row_index: str
    """Index of all rows of the shard; ``Shard.index`` lists only those still to be asked."""
    n_reused: int = 0
    """How many of them are not this job's own: answers of other jobs, and those of an equal request of this one."""
    saved_picodollars: int = 0
    """What these cost when they were asked."""
    usage: Usage = Usage()
    """The tokens of all of them when they were asked; none of jobs of earlier versions."""


class Shard(Value, frozen=True, kw_only=True):
    """Rows of one model (round 0), or those of them that deserve another answer (round 1 and on).

    Rows keep their order, but those of other models may lie between them.
    """

    id: str
    state: State
    is_repeat: bool = False
    """Whether its requests equal earlier ones of the job: they get the outcomes of those, and are not sent."""
    is_pilot: bool = False
    """Whether its rows are asked before all others, to see how they fare."""
    round: int = 0
    parent: str | None = None
    child: str | None = None
    model: str | None = None
    """The model that its requests name; None if the job was planned before that was stored."""
    first_row: int = 0
    """The ordinal of its first row; of a later round, that of its first-round shard."""
    n_rows: int = 0
    row_parts: tuple[str, ...] = ()
    """Files of input columns in the store, in row order; only a first-round shard has them."""
    index: str = ""
    """File with the ordinal, custom_id and digest of each request, in the order of the request file."""
    requests: str = ""
    """The batch input file, in the store."""
    n_requests: int = 0
    n_bytes: int = 0
    """Bytes of the batch input file."""
    n_tokens: int = 0
    """Input tokens, by a sample of the requests; of jobs of earlier versions a quarter of the bytes."""
    max_output_tokens: int | None = None
    """How many tokens an answer may have at most; None if a body sets no bound, or if that was not stored."""
    upload: Upload = Upload()
    intent: Intent | None = None
    """The batch that is being created."""
    doubt: Intent | None = None
    """An intent that was concluded to have made no batch: a frozen process may still prove that wrong."""
    n_creates: int = 0
    """Calls that asked OpenAI to create a batch for this shard."""
    n_absent: int = 0
    """Times in a row that a create had no clear answer, and its batch could not be found afterwards."""
    backoff: Backoff = Backoff()
    batch: Batch | None = None
    past_batches: tuple[str, ...] = ()
    """Ids of batches of this shard that never ran: queue full, file not found."""
    cancel_asked_at: float | None = None
    is_replayed: bool = False
    """Whether a person has asked that its rows without a good answer are asked again, whatever the policy says."""
    is_unwanted: bool = False
    """Whether a person has asked since to start over: answers are not carried over."""
    refused_at: float | None = None
    """Since when OpenAI answers every call for this shard with 401, 403 or 404; epoch seconds."""
    evidence: Evidence | None = None
    known: str | None = None
    """Parquet file in the store with answers of other jobs to its requests; `carried` has them once it is planned."""
    carried: CarriedAnswers | None = None
    direct: DirectAnswers | None = None
    """How far the synchronous asking of its requests has come; None for those that are sent in a batch."""
    copied_from: tuple[str, ...] = ()
    """The outcome parts of which the rows of a shard of repeats have their outcomes."""
    outcomes: OutcomePart | None = None
    settled_at: float | None = None
    """When its outcomes were in the store, in epoch seconds; None in jobs of older versions."""
    rejections: tuple[LineError, ...] = ()
    """Why OpenAI refused the whole batch: nothing ran and nothing was billed."""
    are_files_deleted: bool = False
    """Whether its files at OpenAI were deleted by ``delete_files``, after its outcomes had come into the store."""
    problem: str | None = None
    """The last thing that went wrong, for a person."""

    @property
    def not_before(self) -> float:
        """Epoch seconds before which nothing is done to the shard."""
        return self.backoff.not_before

    @property
    def tally(self) -> dict[Status, int]:
        """Rows by outcome; empty before they are settled."""
        return self.outcomes.tally if self.outcomes is not None else {}

    @property
    def retryable(self) -> dict[Status, int]:
        """Rows by outcome that deserve another answer."""
        return self.outcomes.retryable if self.outcomes is not None else {}

    @property
    def asked_again(self) -> dict[Status, int]:
        """Rows by outcome that a child shard asks, or would ask: what deserves it, or what a person wants again."""
        return self.bad if self.is_replayed else self.retryable

    @property
    def bad(self) -> dict[Status, int]:
        """Rows by outcome that have no good answer."""
        return {status: n for status, n in self.tally.items() if n and status not in GOOD}

    @property
    def usage(self) -> Usage:
        """Tokens that the shard's answers were billed for."""
        if self.outcomes is not None:
            return self.outcomes.usage
        return self.direct.usage if self.direct is not None else Usage()

    @property
    def cost(self) -> Cost:
        """What the shard's answers cost."""
        if self.outcomes is not None:
            return self.outcomes.cost
        return self.direct.cost if self.direct is not None else Cost()

    @property
    def is_skipped(self) -> bool:
        """Whether it only holds the places of rows that have no prompt: nothing is uploaded or created for it."""
        return {status for status, n in self.tally.items() if n} == {Status.SKIPPED}

    @property
    def is_asked(self) -> bool:
        """Whether its requests are for OpenAI; not those of rows without a prompt, or with the outcomes of others."""
        return not self.is_skipped and not (self.is_repeat and not self.n_requests)

    @property
    def n_carried(self) -> int:
        """Rows whose answer was carried over."""
        return self.carried.n_rows if self.carried is not None else 0

    @property
    def is_copied(self) -> bool:
        """Whether its rows have the outcomes of equal requests, and none was sent."""
        return self.is_repeat and self.state is State.SETTLED and not self.n_requests

    @property
    def n_reused(self) -> int:
        """Rows whose answer was carried over from another job, or from an equal request of this one."""
        return self.carried.n_reused if self.carried is not None else 0


class Measure(Value, frozen=True, kw_only=True):
    """What a sample of a job's requests says of all."""

    tokens_per_byte: float | None = None
    """Input tokens for each byte of a request line; None where the tokens of each shard were counted."""
    max_output_tokens: int | None
    """How many tokens an answer may have at most, as the bodies of all say; None if one of them sets no bound."""
    n_sampled: int = 0
    n_uncounted: int = 0
    """Of these, the requests with input whose tokens are not counted: pictures, files, stored prompts."""
    expected_output_tokens: dict[str, float] = {}
    """How many tokens an answer of each model had on average, in the last job of the same task."""


class Probe(Value, frozen=True, kw_only=True):
    """A row that is asked synchronously before anything is uploaded. Stored before the call, which is made once."""

    custom_id: str
    asked_at: float
    """Epoch seconds."""
    result: Literal["asked", "answered", "refused", "unknown"] = "asked"
    """``asked``: it is being asked, or the process ended before it knew more. ``refused`` holds the job."""
    reason: str | None = None
    """Why it was refused, or why its result is not known; for a person."""
    usage: Usage = Usage()
    cost: Cost = Cost()
    """At synchronous prices."""


class Job(Value, frozen=True, kw_only=True):
    """A snapshot: all that is known of a job, complete in one file."""

    format_version: int
    """No default: defaults are left out of the JSON, and this must always be in it."""
    key: JobKey
    spec: Spec
    policy: Policy
    source_version: str | None
    sources: tuple[str, ...] = ()
    """Paths or URIs that the rows were read from; none if they came from memory or a function."""
    created_at: float
    finish_at: float | None = None
    """The moment, in epoch seconds, from which what has no answer is asked synchronously; None for no such moment."""
    lease: Lease | None = None
    """Who asks synchronously now; None if nobody does."""
    n_maybe_paid_twice: int = 0
    """Synchronous requests whose answer was lost and that were asked again: as many as may have been paid twice."""
    maybe_paid_picodollars: int = 0
    """What these cost at most, if they were paid twice."""
    deadline_from: float
    """When the deadline began to run: at submission, or when a person took up a job whose deadline had passed."""
    shards: tuple[Shard, ...]
    epoch: int = 0
    is_plan_only: bool = False
    """Whether nothing of it may be sent before a task that waits for it begins."""
    n_rows: int = 0
    embeds_many: bool = False
    """Whether a request of an embeddings job holds several inputs."""
    measure: Measure | None = None
    """What its requests are like; None if nobody has asked."""
    probe: Probe | None = None
    """The row of this epoch that was asked first; None if there is none, or not yet."""
    earlier: tuple[Shard, ...] = ()
    """Shards of earlier epochs that still have to be cancelled or harvested, or whose answers may be carried over."""
    dropped_usage: Usage = Usage()
    """Tokens of shards that are remembered no more, since the job started over."""
    dropped_cost: Cost = Cost()
    """What those cost."""
    dropped_files: tuple[str, ...] = ()
    """Ids of their files at OpenAI, as far as they were not deleted."""
    refreshed_at: float = 0.0
    """When a person last asked to start over, in epoch seconds: answers to what was asked before are not used again."""
    acknowledged: tuple[str, ...] = ()
    """Names of commands that were obeyed, or taken back, so that they are not obeyed again."""
    owner: str = ""
    """The deployment that the job belongs to; empty if that is not known."""
    conn_id: str = ""
    """The connection that the job was submitted with, for whoever cancels it outside of its tasks."""
    compared_at: int | None = None
    """The submitting task's ``max_tries`` when the request was last compared with the plan.

    Airflow sets it anew when a person clears the task, and leaves it when it retries by itself.
    """
    waits: dict[str, int] = {}
    """The ``max_tries`` of each waiting task, by its key, when it last asked whether the deadline may be extended."""
    writer: str = ""
    """Who made this snapshot: tells a repeated write of the storage client from another process."""
    committed_at: float = 0.0
    work_s: dict[str, float] = {}
    """Seconds of own work by verb, as far as they were committed along with something else; ``build`` is planning."""

    @property
    def all_shards(self) -> tuple[Shard, ...]:
        """The shards of earlier epochs that still matter, then those of this one."""
        return self.earlier + self.shards

    @property
    def usage(self) -> Usage:
        """The tokens of all answers so far, of all rounds and epochs."""
        probed = self.probe.usage if self.probe is not None else Usage()
        return sum((shard.usage for shard in self.all_shards), self.dropped_usage + probed)

    @property
    def cost(self) -> Cost:
        """What all answers cost so far, of all rounds and epochs."""
        probed = self.probe.cost if self.probe is not None else Cost()
        return sum((shard.cost for shard in self.all_shards), self.dropped_cost + probed)

    @property
    def n_reused(self) -> int:
        """Rows of this epoch whose answer came from another job, or from an equal request of this one."""
        return sum(shard.n_reused for shard in self.shards)

    @property
    def reuse_saved_picodollars(self) -> int:
        """What those answers cost when they were asked, which was not paid again."""
        return sum(shard.carried.saved_picodollars for shard in self.shards if shard.carried is not None)


TOMBSTONE_FORMAT = 1000
"""Stands as the format's version in a tombstone, so that versions which know of none refuse to go on with the job."""


class Tombstone(Value, frozen=True, kw_only=True):
    """What is left of a job that was removed: stored as its next snapshot, so that no process goes on with the job."""

    format_version: int
    """No default, as in ``Job``: `TOMBSTONE_FORMAT`."""
    removed_at: float
    """Epoch seconds."""
    reason: Literal["cleaned", "forgotten", "abandoned"]
    """``cleaned``: it was old. ``forgotten``: a person asked for it. ``abandoned``: its plan was never finished."""
    key: JobKey | None = None
    """Whose it was; None if that is not known, as there never was a snapshot."""
    owner: str = ""
    conn_id: str = ""
    epoch: int = 0
    """Its last epoch: a job that begins anew in its place has a later one."""
    compared_at: int | None = None
    """See ``Job.compared_at``: an automatic retry must not ask, and pay, anew."""
    is_unsent: bool = False
    """Whether nothing of it was ever sent, so that anybody may begin anew."""
    file_ids: tuple[str, ...] = ()
    """Its files at OpenAI, to be removed there too."""
    writer: str = ""
    """See ``Job.writer``."""


class Limit(Value, frozen=True, kw_only=True):
    """What keeps requests of a job back although OpenAI has room for them."""

    by: Literal["cap", "pilot", "probe"]
    """The job's cap; its pilot, which runs or did not go well; or the row that was asked first, which was refused."""
    reason: str
    """For a person, with figures and what to do."""


class Outcome(msgspec.Struct, kw_only=True, gc=False):
    """What became of one request, as read from an output line."""

    custom_id: str
    status: Status
    output: Any = None
    error_code: str | None = None
    error_message: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = Usage()
    request_id: str | None = None
    retryable: bool = False
    """Whether the same request may fare better: rate limits, server errors, expiry."""
    fields: tuple[Any, ...] | None = None
    """The values of a structured answer, in the order of its schema's properties."""


def describe(batch: Batch) -> str:
    """Return one line about a batch for a log: status and counts, as OpenAI reports them."""
    return f"{batch.id} {batch.status} ({batch.n_completed} completed, {batch.n_failed} failed of {batch.n_total})"


def root_id(shard_id: str) -> str:
    """Return the id of the first-round shard from which a shard descends."""
    return shard_id.partition(".")[0]


class Timing(Value, frozen=True, kw_only=True):
    """Durations that decide when something is done, in seconds. Pauses inside one call stand where they are made."""

    post_timeout_s: float = 60.0
    """Longest time that the create call may take."""
    ask_timeout_s: float = 120.0
    """Longest time that a synchronous answer may take."""
    grace_s: float = 180.0
    """After the intent, how long an absent batch may still appear: more than the call plus the listing's lag."""
    backoff_s: float = 30.0
    """First pause after a call that could not be made; doubles."""
    backoff_max_s: float = 1800.0
    late_file_s: float = 600.0
    """How long a completed batch may lack its output file id before that is believed."""
    probe_s: float = 60.0
    """How soon to look whether a batch was admitted to a queue that was full."""
    expiry_margin_s: float = 2 * 3600.0
    """OpenAI notices an expiry late; seen: 30 minutes."""
    belief_s: float = 600.0
    """How long 401, 403 and 404 must be all that OpenAI answers before they are believed."""
    proof_s: float = 6 * 3600.0
    """How long result files that prove nothing are fetched again before the job is held."""
    earlier_epoch_s: float = 3600.0
    """How long a batch of an earlier epoch, asked to cancel, is waited for. OpenAI: cancelling takes up to 10 min."""
    lease_s: float = 180.0
    """How long a process that asks synchronously may be silent before another takes its place."""
    renew_s: float = 30.0
    """How often it says that it goes on, and how far it has come."""
    direct_timeout_s: float = 900.0
    """Longest time that a synchronous answer may take. OpenAI's guide advises 15 minutes for flex."""
    direct_pause_s: float = 60.0
    """A longer pause of a rate limit gives the worker free: it is waited for as for a batch."""
    cancelling_s: float = 3600.0
    """How long a batch that was cancelled at ``Job.finish_at`` is waited for. OpenAI: cancelling takes up to 10 min."""
    harvest_after_s: float = 300.0
    """An ended batch is fetched at the latest after this time, even while others run."""


class Commands(Value, frozen=True, kw_only=True):
    """What a person asked for, read from the store's marker files."""

    cancel: bool = False
    """Whether everything is to be cancelled."""
    accepted: tuple[tuple[float, Literal["missing", "ask_again"]], ...] = ()
    """What to do with rows that cannot be proven to have no answer, with the command's time in epoch seconds."""

    replays: tuple[str, ...] = ()
    """Names of commands to ask rows without a good answer once more."""

    def accepts(self, since: float) -> Literal["missing", "ask_again"] | None:
        """Return what a person decided, after a time, of rows without proof. The latest word counts."""
        return next((what for at, what in sorted(self.accepted, reverse=True) if at >= since), None)


_MODEL = re.compile(r"[\w.:/@-]{1,100}")


def model_of(spec: Spec) -> str | None:
    """Return the model that every request asks.

    None: it differs from row to row, or cannot be known, as of a callable or of ready-made request lines.
    """
    try:
        model = msgspec.json.decode(spec.body).get("model")
    except (msgspec.DecodeError, AttributeError):
        return None
    return model if isinstance(model, str) and _MODEL.fullmatch(model) else None
