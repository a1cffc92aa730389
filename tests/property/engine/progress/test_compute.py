from __future__ import annotations

from builders import TIMING, batch, job, shard
from hypothesis import given
from hypothesis import strategies as st

from airflow_openai_batch.engine.model import Batch, Job, Shard, State, Status
from airflow_openai_batch.engine.progress.compute import look_after, progress_of, with_batches
from airflow_openai_batch.engine.progress.log_format import line
from airflow_openai_batch.engine.progress.model import Look, Progress, decoded_progress, encoded
from airflow_openai_batch.engine.progress.rate import WINDOW_S

STATUSES = ("validating", "in_progress", "finalizing", "cancelling", "completed", "expired", "something_new")
lies = st.integers(-10, 300)


@st.composite
def batches(draw: st.DrawFn, name: str) -> Batch:
    return batch(
        draw(st.sampled_from(STATUSES)),
        name,
        n_total=draw(st.sampled_from((0, 100, 100, 7))),
        n_completed=draw(lies),
        n_failed=draw(lies),
    )


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    shards: list[Shard] = []
    for i in range(draw(st.integers(1, 5))):
        name, state = f"0-{i:05}", draw(st.sampled_from(State))
        made = draw(batches(f"batch_{i}")) if state in (State.RUNNING, State.ENDED) else None
        n_rows = draw(st.integers(1, 100))
        n_carried = draw(st.integers(0, n_rows))
        n_asked = n_rows - n_carried
        settled: dict[str, object] = {}
        if state is State.SETTLED:
            n_again = draw(st.integers(0, n_asked))
            tally = {Status.SUCCEEDED: n_asked - n_again, Status.EXPIRED: n_again}
            settled = {"tally": tally, "retryable": {Status.EXPIRED: n_again}}
            if n_again and draw(st.booleans()):
                settled["child"] = f"{name}.1"
                child_batch = draw(batches(f"batch_{i}_1"))
                child = {"round": 1, "parent": name, "n_rows": n_again, "n_requests": n_again, "batch": child_batch}
                shards.append(shard(State.RUNNING, f"{name}.1", **child))
        shards.append(shard(state, name, n_rows=n_rows, n_requests=n_asked, n_carried=n_carried, batch=made, **settled))
    return job(*shards)


@given(jobs(), st.data())
def test_whatever_openai_says_no_more_rows_are_done_than_there_are_and_nothing_is_negative(
    on_paper: Job, data: st.DataObject
) -> None:
    now = 0.0
    look: Look | None = None
    for _ in range(data.draw(st.integers(1, 4))):
        now += data.draw(st.floats(0, 2 * WINDOW_S))
        made = progress_of(on_paper, now, TIMING, look=look)
        running = [s.batch.id for s in on_paper.shards if s.batch is not None and s.state is State.RUNNING]
        base = made
        for _ in range(data.draw(st.integers(0, 4))):
            seen = (
                {name: data.draw(batches(name)) for name in data.draw(st.sets(st.sampled_from(running)))}
                if (running)
                else {}
            )
            now += data.draw(st.floats(0, WINDOW_S))
            made = with_batches(base, seen, now, look)
            look = look_after(look, made)
            holds(made)
        holds(made)
        look = look_after(look, made)


def holds(made: Progress) -> None:
    assert 0 <= made.n_done <= made.n_rows
    assert 0 <= made.percent <= 100 and (made.percent == 100) is (made.n_done == made.n_rows)
    assert 0 <= made.n_running <= made.n_batches
    assert made.rate_per_h is None or made.rate_per_h > 0
    assert made.eta_at is None or made.eta_at >= made.updated_at
    assert all(seconds >= 0 for seconds in made.phases_s.values())
    assert decoded_progress(encoded(made)) == made
    assert "\n" not in line(made)


@given(st.integers(1, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_more_rows_done_are_no_less_percent(n_rows: int, one: int, other: int) -> None:
    def percent(n: int) -> float:
        made = batch("in_progress", n_total=n_rows, n_completed=n)
        on_paper = job(shard(State.RUNNING, n_rows=n_rows, n_requests=n_rows, batch=made))
        return progress_of(on_paper, 0.0, TIMING).percent

    assert percent(min(one, other)) <= percent(max(one, other))


@given(
    st.floats(1, 500),
    st.floats(5, 120),
    st.integers(3, 60),
)
def test_a_steady_job_has_its_rate_and_its_end(per_s: float, pause_s: float, n_looks: int) -> None:
    made, look, n_rows = None, None, 10**6
    for i in range(n_looks + 1):
        found = batch("in_progress", n_total=n_rows, n_completed=round(i * pause_s * per_s))
        on_paper = job(shard(State.RUNNING, n_rows=n_rows, n_requests=n_rows, batch=found))
        made = progress_of(on_paper, i * pause_s, TIMING, look=look)
        look = look_after(look, made)
    assert made is not None and look is not None
    if made.n_done < made.n_rows and look.moments:
        assert made.rate_per_h is not None
        slack = 3600 * (1 + per_s * 0.1) / pause_s  # a count is a whole number, a time is kept to a tenth
        assert abs(made.rate_per_h - per_s * 3600) <= slack + 1e-6
