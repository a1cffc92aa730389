"""Promise 6: memory does not grow with the job. Measured properly by the benchmarks; this catches a list of all."""

from __future__ import annotations

import tracemalloc

import pytest

from airflow_openai_batch.engine.results.writer import write_results


def _peak_bytes(act):
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_plan_of_more_rows_takes_no_more_memory(world):
    """To hold the rows of the larger job would take at least 25 MB more. The smaller fills every buffer there is."""
    text = "word " * 120

    def peak(n):
        w = world()
        rows = ({"id": i, "text": f"{i} {text}"} for i in range(n))
        return _peak_bytes(lambda: w.submit(lambda: rows, per_shard=5000))

    peak(10)
    small = peak(20_000)
    large = peak(60_000)
    assert large < small + 4_000_000


def test_more_rows_of_several_models_in_turns_take_no_more_memory(world):
    """Planned with most of them waiting on the disk, fetched, and put in order. To hold them would take 7 MB more."""
    text = "word " * 120

    def peak(n, n_models):
        w = world()
        rows = ({"id": i, "text": f"{i} {text}", "m": f"gpt-{i % n_models}"} for i in range(n))

        def act():
            w.submit(lambda: rows, body={"model": "{m}", "input": "{text}"})
            w.done()
            w.write("out.parquet")

        return _peak_bytes(act)

    peak(10, 5)
    assert peak(15_000, 40) < peak(5_000, 5) + 3_000_000


class Weighed:
    """A sink that only notes how large a record batch was at most."""

    uri = dead_letter_uri = None
    n_dead_letter = most_bytes = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def begin(self, schema):
        pass

    def write(self, batch):
        self.most_bytes = max(self.most_bytes, batch.nbytes)

    def dead_letter(self, line):
        pass

    def finish(self):
        pass


def _same_vectors():
    return {"endpoint": "/v1/embeddings", "body": {"model": "text-embedding-3-small", "input": "the same"}}


def _long_rows():
    return {"body": {"model": "gpt-5.6", "input": "{id}"}}


@pytest.mark.parametrize(("n", "text", "args"), [(3000, "x", _same_vectors()), (500, "word " * 12_000, _long_rows())])
def test_results_are_put_together_a_few_at_a_time_however_small_they_are_stored(world, n, text, args):
    """Vectors that are all the same, and documents beside short answers: 20 and 30 MB as one record batch."""
    w = world()
    rows = ({"id": i, "text": f"{i} {text}"} for i in range(n))
    w.submit(lambda: rows, **args)
    w.done()
    sink = Weighed()
    written = write_results(w.store, w.job, sink)
    assert written.n_rows == n
    assert 0 < sink.most_bytes < 10 * 1024 * 1024
