"""Progress as text for a task's log: a line when something has changed, and a table at the end. Pure."""

from __future__ import annotations

from collections import Counter

from airflow_openai_batch.engine.job.summary import counted, money_text, share
from airflow_openai_batch.engine.model import Cost, Status
from airflow_openai_batch.engine.money.dollars import PICODOLLARS, format_dollars
from airflow_openai_batch.engine.progress.forecast import forecast_text
from airflow_openai_batch.engine.progress.model import OVER, Failed, Logged, Progress, Tokens

STEP_PERCENT, STEP_S = 5, 600.0
"""Counts alone are logged again after so many percent, or seconds."""


def is_worth_logging(logged: Logged | None, progress: Progress) -> bool:
    """Return whether the log should say how the job stands.

    Args:
        logged: What it said last; without that, it should.
        progress: How the job stands.
    """
    if logged is None or logged.state != state_of(progress):
        return True
    if logged.n_done == progress.n_done:
        return False
    is_step = int(logged.percent // STEP_PERCENT) != int(progress.percent // STEP_PERCENT)
    return is_step or progress.updated_at - logged.at >= STEP_S


def logged_as(progress: Progress) -> Logged:
    """Return what to remember of a progress that was logged."""
    return Logged(at=progress.updated_at, n_done=progress.n_done, percent=progress.percent, state=state_of(progress))


def state_of(progress: Progress) -> str:
    """Return all but the counts of rows, as a text to compare."""
    n_s = (progress.n_shards, progress.n_settled, progress.n_unsent, progress.n_batches, progress.n_running)
    statuses = sorted(_statuses(progress).items())
    return f"{progress.phase} {progress.round} {n_s} {statuses} {sorted(progress.by_status.items())}"


def _statuses(progress: Progress) -> Counter[str]:
    return Counter(seen.status for seen in progress.batches)


def line(progress: Progress) -> str:
    """Return how a job stands, as one line."""
    rows = f"{progress.n_done:,} of {counted(progress.n_rows, 'row')} ({_percent(progress.percent)})"
    if progress.rate_per_h is not None:
        rows += f", {progress.rate_per_h:,.0f}/h"
    if progress.eta_at is not None:
        left_s = progress.eta_at - progress.updated_at
        rows += f", about {duration(left_s)} left" if left_s >= 60 else ", under a minute left"
    if progress.phase not in OVER and (forecast := forecast_text(progress.forecast, progress.updated_at)):
        rows += f", {forecast}"
    ended = f"{progress.n_ended:,} of {counted(progress.n_batches, 'batch', 'batches')} ended"
    if progress.n_running == len(progress.batches):  # of more, only some are known one by one
        ended += "".join(f", {n} {status}" for status, n in _statuses(progress).most_common())
    parts = [rows, ended]
    if progress.n_asking and progress.phase not in OVER:
        parts.append(f"asking {counted(progress.n_asking, 'row')} synchronously")
    if progress.n_unsent and progress.phase not in OVER:
        waits = f"{counted(progress.n_unsent, 'shard')} {_plural(progress.n_unsent, 'waits')}"
        parts.append(f"{waits} {_AWAITED.get(progress.limit or '', 'to be sent')}")
    if (expected := _expected(progress)) is not None:
        parts.append(expected)
    parts.append(f"round {progress.round}")
    if progress.by_status:
        parts.append(", ".join(f"{n:,} {status}" for status, n in progress.by_status.items()))
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration in the words of its size: ``40 s``, ``12 min``, ``3 h 50 min``, ``2 d 4 h``."""
    whole = int(max(0.0, seconds))
    if whole < 10:
        return f"{max(0.0, seconds):.1f} s".replace(".0 s", " s")
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"  # seconds beside minutes are more than anybody knows
    size, unit, small, smaller = (3600, "h", 60, "min") if whole < 86_400 else (86_400, "d", 3600, "h")
    n, rest = whole // size, whole % size // small
    return f"{n} {unit} {rest} {smaller}" if rest else f"{n} {unit}"


_AWAITED = {"cap": "for a higher max_cost", "pilot": "for the pilot"}


def _expected(progress: Progress) -> str | None:
    """Return what a job has cost so far and will cost in the end; None if nothing is known of its end."""
    expected = None if progress.estimate_basis == "bound" else progress.expected_cost
    texts = [] if expected is None else [f"{format_dollars(_picodollars(expected))} expected"]
    if progress.upper_cost is not None:
        texts.append(f"at most {format_dollars(_picodollars(progress.upper_cost))}")
    if not texts or progress.phase in OVER:
        return None
    return ", ".join([f"{format_dollars(_picodollars(progress.cost or 0.0))} spent", *texts])


def table(progress: Progress) -> str:
    """Return what became of a job whose results are written, as lines of one log record."""
    where = f"written to {progress.output}" if progress.output else "returned through XCom"
    lines = [f"{counted(progress.n_rows, 'row')}, {where}", "", *_outcomes(progress)]
    if progress.errors:
        lines += ["", *_errors(progress.errors)]
    lines += ["", *(f"{name:<11}{text}" for name, text in _facts(progress))]
    if progress.advice:
        lines += ["", *(f"- {way}" for way in progress.advice)]
    return "\n".join(lines)


def _outcomes(progress: Progress) -> list[str]:
    # A good answer first, then what there is most of.
    ranked = sorted(progress.by_status.items(), key=lambda item: (item[0] != Status.SUCCEEDED, -item[1]))
    lines = [f"{'outcome':<12}{'rows':>14}{'share':>9}"]
    for status, n in ranked:
        lines.append(f"{status:<12}{n:>14,}{share(n, progress.n_rows):>9}")
    return lines


def _errors(errors: tuple[Failed, ...]) -> list[str]:
    names = [f"{error.status} {error.code}" for error in errors]
    width = max(len("error"), *map(len, names))
    lines = [f"{'error':<{width}}{'rows':>12}  for example"]
    for name, error in zip(names, errors, strict=True):
        lines.append(f"{name:<{width}}{error.n:>12,}  {', '.join(error.custom_ids)}")
        if error.message:
            lines.append(f"  {error.message}")
    return lines


def _facts(progress: Progress) -> list[tuple[str, str]]:
    usage = progress.usage
    rounds = f", {counted(progress.round, 'round')} of asking again" if progress.round else ""
    spent = [f"{phase} {duration(seconds)}" for phase, seconds in progress.phases_s.items() if seconds]
    where = [("raw lines", f"{progress.n_dead_letter:,} in {progress.dead_letter}")] if progress.dead_letter else []
    return [
        *where,
        (
            "tokens",
            f"input {usage.input_tokens:,} (cached {usage.cached_tokens:,}{_written(usage)}), "
            f"output {usage.output_tokens:,} (reasoning {usage.reasoning_tokens:,})",
        ),
        ("cost", _money(progress)),
        *_direct(progress),
        ("batches", f"{progress.n_batches:,}{rounds}"),
        *_files(progress),
        ("time", ", ".join(spent)),
    ]


def _files(progress: Progress) -> list[tuple[str, str]]:
    if progress.files_deleted is None:
        return []
    left = f", {progress.files_left:,} could not be deleted" if progress.files_left else ""
    return [("files", f"{progress.files_deleted:,} deleted at OpenAI{left}")]


def _direct(progress: Progress) -> list[tuple[str, str]]:
    """Return the line about rows that were asked synchronously, if any were."""
    if not progress.direct_rows and not progress.maybe_paid_twice:
        return []
    n_batch = sum(progress.by_status.values()) - progress.direct_rows
    cost = format_dollars(_picodollars(progress.cost_of_direct))
    text = f"{counted(progress.direct_rows, 'row')} answered synchronously for {cost}, {n_batch:,} otherwise"
    if progress.maybe_paid_twice:
        text += f"; up to {progress.maybe_paid_twice:,} may have been paid twice"
    return [("finish_by", text)]


def _written(usage: Tokens) -> str:
    return f", written to the cache {usage.cache_write_tokens:,}" if usage.cache_write_tokens else ""


def _money(progress: Progress) -> str:
    cost = Cost(
        picodollars=_picodollars(progress.cost or 0.0),
        bad_picodollars=_picodollars(progress.cost_of_bad_rows),
        saved_picodollars=_picodollars(progress.saved),
        n_unknown=progress.rows_without_price,
    )
    max_cost = None if progress.max_cost is None else _picodollars(progress.max_cost)
    return money_text(cost, max_cost, progress.reused_rows, _picodollars(progress.saved_by_reuse))


def _picodollars(dollars: float) -> int:
    return round(dollars * PICODOLLARS)


def why(progress: Progress) -> str:
    """Return why rows of a written job are bad and what to do, as the lines of an exception's message."""
    lines = [
        f"{error.n:,} {error.status} {error.code}: {error.message or 'no message'} "
        f"(for example {', '.join(error.custom_ids)})"
        for error in progress.errors[:_MAX_WHY]
    ]
    if len(progress.errors) > _MAX_WHY:
        lines.append(f"and {len(progress.errors) - _MAX_WHY:,} more codes, in the table above")
    if progress.dead_letter:
        lines.append(f"Their raw lines are in {progress.dead_letter}.")
    return "\n".join([*lines, *(f"- {way}" for way in progress.advice)])


_MAX_WHY = 5


def _percent(percent: float) -> str:
    return f"{percent:.0f}%" if percent in (0, 100) else f"{percent:.1f}%"


def _plural(n: int, verb: str) -> str:
    return verb if n == 1 else verb.removesuffix("s")
