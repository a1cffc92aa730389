"""Results in a table: of real databases, all of them or none, and the same however often they are written."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import json_column
from airflow_openai_batch.sql import SqlQuery, SqlTable
from airflow_openai_batch.sql.sink import SqlSink
from airflow_openai_batch.sql.source import SqlSource


class Log:
    """What a task's log would have."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str, *values: Any) -> None:
        self.lines.append(text % values)

    warning = info


LOG: Any = Log()
LABELS = "CREATE TABLE labels (id integer PRIMARY KEY, label varchar(20), status varchar(20))"


def batch(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    ids, labels, states = ([row[i] for row in rows] for i in range(3))
    columns = [pa.array(ids, pa.int64()), pa.array(labels, pa.string()), pa.array(states, pa.string())]
    return pa.RecordBatch.from_arrays(columns, names=["id", "label", "status"])


def good(*pairs: tuple[int, str]) -> list[tuple[Any, ...]]:
    return [(i, label, "succeeded") for i, label in pairs]


def write(table: SqlTable, *batches: pa.RecordBatch) -> SqlSink:
    sink = SqlSink(table, LOG)
    with sink:
        sink.begin(batches[0].schema)
        for rows in batches:
            sink.write(rows)
        sink.finish()
    return sink


def labels(database: Any) -> list[tuple[Any, ...]]:
    return database.rows("SELECT id, label FROM labels ORDER BY id")


def test_upsert_updates_what_differs_and_adds_the_rest(database: Any) -> None:
    database.run(
        LABELS, "INSERT INTO labels VALUES (1, 'old', 'succeeded'), (2, 'same', 'succeeded'), (9, 'kept', 'x')"
    )
    table = SqlTable("labels", database.conn_id, key="id")
    rows = [batch(good((1, "new"), (2, "same"))), batch(good((3, "added")))]
    write(table, *rows)
    assert labels(database) == [(1, "new"), (2, "same"), (3, "added"), (9, "kept")]
    assert "3 rows of results; 2 added or changed, 0 removed" in LOG.lines[-1]
    write(table, *rows)
    assert labels(database) == [(1, "new"), (2, "same"), (3, "added"), (9, "kept")]
    assert "3 rows of results; 0 added or changed, 0 removed" in LOG.lines[-1]


def test_an_answer_that_only_differs_in_its_case_is_written(lax: Any) -> None:
    lax.run("INSERT INTO labels VALUES (1, 'good', 'succeeded'), (2, 'bad', 'succeeded')")
    assert lax.rows("SELECT id FROM labels WHERE label = 'GOOD'") == [(1,)]
    rows = batch(good((1, "Good"), (2, "bad")))
    for n_changed in (1, 0):
        write(SqlTable("labels", lax.conn_id, key="id"), rows)
        assert labels(lax) == [(1, "Good"), (2, "bad")]
        assert f"2 rows of results; {n_changed} added or changed" in LOG.lines[-1]


def test_append_leaves_what_is_there(database: Any) -> None:
    database.run(LABELS, "INSERT INTO labels VALUES (1, 'old', 'succeeded')")
    table = SqlTable("labels", database.conn_id, mode="append", key=["id"])
    for _ in range(2):
        write(table, batch(good((1, "new"), (3, "added"))))
        assert labels(database) == [(1, "old"), (3, "added")]


def test_replace_removes_the_rest(database: Any) -> None:
    database.run(LABELS, "INSERT INTO labels VALUES (1, 'old', 'succeeded'), (2, 'old', 'x')")
    for _ in range(2):
        write(SqlTable("labels", database.conn_id, mode="replace"), batch(good((1, "new"), (3, "added"))))
        assert labels(database) == [(1, "new"), (3, "added")]


def test_what_vanished_is_deleted_when_asked_and_bad_rows_have_not(database: Any) -> None:
    database.run(LABELS, "INSERT INTO labels VALUES (1, 'a', 's'), (2, 'b', 's'), (3, 'gone', 's')")
    table = SqlTable("labels", database.conn_id, key=["id"], only_good=True, delete_vanished=True)
    for _ in range(2):
        write(table, batch([*good((1, "new")), (2, None, "failed"), (4, None, "expired")]))
        assert labels(database) == [(1, "new"), (2, "b")]


def test_no_rows_delete_nothing(database: Any) -> None:
    database.run(LABELS, "INSERT INTO labels VALUES (1, 'a', 's')")
    with pytest.raises(InputError, match="delete_vanished would delete all"):
        write(SqlTable("labels", database.conn_id, key=["id"], delete_vanished=True), batch([]))
    assert labels(database) == [(1, "a")]


def test_two_rows_of_one_key_are_refused(database: Any) -> None:
    database.run(LABELS)
    with pytest.raises(InputError, match=r"1 keys \(id\) are those of several rows.*no answer is lost"):
        write(SqlTable("labels", database.conn_id, key=["id"]), batch(good((1, "a"), (1, "b"), (2, "c"))))
    assert labels(database) == []


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_a_row_without_a_key_is_refused_for_a_retry_would_write_it_again(database: Any, mode: Any) -> None:
    database.run("CREATE TABLE labels (id integer UNIQUE, label varchar(20), status varchar(20))")
    rows = batch([(None, "a", "failed"), *good((1, "b"))])
    with pytest.raises(InputError, match=r"1 rows have null in the key \(id\).*no answer is lost"):
        write(SqlTable("labels", database.conn_id, mode=mode, key=["id"]), rows)
    assert labels(database) == []
    for _ in range(2):
        write(SqlTable("labels", database.conn_id, mode=mode, key=["id"], only_good=True), rows)
        assert labels(database) == [(1, "b")]


@pytest.mark.parametrize("server", ["plain_postgres", "mysql"])
def test_two_workers_that_replace_at_the_same_time_leave_the_rows_once(request: Any, server: str) -> None:
    """A frozen worker that wakes up while a retry writes: there need be no unique key."""
    database = request.getfixturevalue(server)
    database.run(LABELS.replace(" PRIMARY KEY", ""), "INSERT INTO labels VALUES (9, 'old', 's')")
    table, rows = SqlTable("labels", database.conn_id, mode="replace"), batch(good((1, "a"), (2, "b")))
    is_written, may_commit = threading.Event(), threading.Event()
    late = SqlSink(table, LOG)

    def wait() -> None:
        is_written.set()
        may_commit.wait(60)

    def write_late() -> None:
        with late:
            late.begin(rows.schema)
            late.write(rows)
            drop = late._loader.drop_staging
            late._loader.drop_staging = lambda: (drop(), wait())  # type: ignore[method-assign,assign]
            late.finish()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(write_late)
        assert is_written.wait(60)
        second = threads.submit(write, table, rows)
        with contextlib.suppress(TimeoutError):
            second.result(timeout=1)
        may_commit.set()
        first.result(60)
        second.result(60)
    assert labels(database) == [(1, "a"), (2, "b")]


def test_columns_are_chosen_and_named(database: Any) -> None:
    database.run('CREATE TABLE "Odd ""Name" (number integer PRIMARY KEY, "the label" varchar(20), other integer)')
    table = SqlTable('"Odd ""Name"', database.conn_id, key=["number"], columns={"id": "number", "label": "the label"})
    write(table, batch(good((1, "a"))))
    assert database.rows('SELECT * FROM "Odd ""Name"') == [(1, "a", None)]


@pytest.mark.parametrize(
    ("made", "given", "problem"),
    [
        ("CREATE TABLE other (id integer)", {"key": ["id"]}, "labels"),
        ("CREATE TABLE labels (id integer PRIMARY KEY)", {"key": ["id"]}, "has no column label, status; it has id"),
        (
            "CREATE TABLE labels (id integer, label varchar(9), status varchar(9))",
            {"key": ["id"]},
            "(?i)unique|conflict",
        ),
        (LABELS, {"key": ["id"], "columns": ["id", "nope"]}, "the results have no column nope. They have id, label"),
        (LABELS, {"key": ["number"]}, "no column number, which is in the key"),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_before_anything_is_paid(
    database: Any, made: str, given: dict[str, Any], problem: str
) -> None:
    database.run(made)
    with pytest.raises(InputError, match=problem):
        SqlSink(SqlTable("labels", database.conn_id, **given), LOG).check(batch([]).schema)


def test_a_check_writes_nothing(database: Any) -> None:
    database.run(LABELS, "INSERT INTO labels VALUES (1, 'a', 's')")
    for mode in ("upsert", "append", "replace"):
        SqlSink(SqlTable("labels", database.conn_id, mode=mode, key=["id"]), LOG).check(batch([]).schema)
    assert labels(database) == [(1, "a")]


@pytest.mark.parametrize(("mode", "is_allowed"), [("upsert", True), ("append", True), ("replace", False)])
def test_no_more_rights_are_needed_than_the_mode_uses(
    postgres: Any, monkeypatch: pytest.MonkeyPatch, mode: Any, is_allowed: bool
) -> None:
    postgres.run(
        LABELS,
        "DROP ROLE IF EXISTS writer",
        "CREATE ROLE writer LOGIN",
        "GRANT USAGE ON SCHEMA tests TO writer",
        "GRANT SELECT, INSERT, UPDATE ON labels TO writer",
    )
    given = json.loads(os.environ["AIRFLOW_CONN_PG"])
    monkeypatch.setenv("AIRFLOW_CONN_PG", json.dumps({**given, "login": "writer"}))
    table = SqlTable("labels", "pg", mode=mode, key=["id"])
    try:
        if is_allowed:
            SqlSink(table, LOG).check(batch([]).schema)
            write(table, batch(good((1, "a"))))
        else:
            with pytest.raises(InputError, match="permission denied for table labels"):
                SqlSink(table, LOG).check(batch([]).schema)
    finally:
        postgres.run("DROP OWNED BY writer", "DROP ROLE writer")


def test_a_number_that_sqlite_cannot_hold_is_refused_by_its_rows(sqlite: Any) -> None:
    sqlite.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    rows = pa.RecordBatch.from_arrays(
        [pa.array([1]), pa.array([2**64 - 1], pa.uint64()), pa.array(["succeeded"])], names=["k", "n", "status"]
    )
    with pytest.raises(InputError, match=r"rows 0 to 0 have a whole number.*no answer is lost"):
        write(SqlTable("t", "lite", key="k", columns=["k", "n"]), rows)
    assert sqlite.rows("SELECT count(*) FROM t") == [(0,)]


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "merge", "key": ["id"]},
        {"mode": "upsert"},
        {"mode": "append"},
        {"mode": "replace", "delete_vanished": True},
        {"table": "a.b.c.d", "key": ["id"]},
        {"table": "a..b", "key": ["id"]},
        {"table": "", "key": ["id"]},
        {"conn_id": None, "key": ["id"]},
        {"key": ["id"], "columns": ["label"]},
        {"key": ["x"], "columns": {"id": "x", "label": "x"}},
    ],
)
def test_what_makes_no_sense_is_refused_in_the_dag_file(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="SqlTable: "):
        SqlTable(**{"table": "labels", "conn_id": "x", **given})


def test_a_value_that_does_not_fit_leaves_the_table_as_it_was(postgres: Any) -> None:
    postgres.run("CREATE TABLE labels (id int PRIMARY KEY, label int, status text)", "INSERT INTO labels VALUES (1, 7)")
    with pytest.raises(InputError, match="invalid input syntax for type integer") as told:
        write(SqlTable("labels", "pg", mode="replace"), batch(good((1, "my secret diagnosis"))))
    assert "diagnosis" not in str(told.value)
    assert "nothing is paid again" in str(told.value)
    assert labels(postgres) == [(1, 7)]


def _killed_before(step: str, table: SqlTable) -> None:
    """Write in a process that dies before a step."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    sink = SqlSink(table, LOG)
    with sink:
        sink.begin(batch([]).schema)
        for i in range(3):
            if step == f"batch {i}":
                die()
            sink.write(batch(good((i, f"new {i}"))))
        if step == "keys":
            sink._check_keys = die  # type: ignore[method-assign]
        if step == "commit":
            sink._loader.drop_staging = die  # type: ignore[method-assign]
        sink.finish()


@pytest.mark.parametrize("step", ["batch 0", "batch 2", "keys", "commit", "never"])
@pytest.mark.parametrize("mode", ["upsert", "append", "replace"])
def test_killed_at_any_step_the_table_is_as_before(database: Any, step: str, mode: Any) -> None:
    database.run(LABELS, "INSERT INTO labels VALUES (0, 'old', 's'), (7, 'old', 's')")
    before = labels(database)
    table = SqlTable("labels", database.conn_id, mode=mode, key=["id"])
    process = multiprocessing.get_context("fork").Process(target=_killed_before, args=(step, table))
    process.start()
    process.join(60)
    assert process.exitcode == (0 if step == "never" else -signal.SIGKILL)
    if step != "never":
        assert labels(database) == before
    results = batch(good((0, "new 0"), (1, "new 1"), (2, "new 2")))
    for _ in range(2):
        write(table, results)
        kept = [(0, "old" if mode == "append" else "new 0"), (1, "new 1"), (2, "new 2")]
        assert labels(database) == kept + ([] if mode == "replace" else [(7, "old")])


UTC = datetime.UTC
VALUES: dict[str, tuple[pa.Array, Any, str]] = {
    "b": (pa.array([True, None]), "boolean", "true"),
    "i": (pa.array([2**63 - 1, None]), "bigint", "9223372036854775807"),
    "f": (pa.array([0.1, None]), "double precision", "0.1"),
    "d": (pa.array([decimal.Decimal("12.50"), None]), "numeric(10, 2)", "12.50"),
    "t": (pa.array(['a,"b"\n\'é\\', None]), "text", 'a,"b"\n\'é\\'),
    "e": (pa.array(["", None]), "text", ""),
    "day": (pa.array([datetime.date(2026, 2, 28), None]), "date", "2026-02-28"),
    "at": (
        pa.array([datetime.datetime(2026, 2, 28, 1, 2, 3, 4, UTC), None], pa.timestamp("us", "UTC")),
        "timestamptz",
        "2026-02-28 01:02:03.000004+00",
    ),
    "x": (pa.array([b"\x00\xff", None]), "bytea", "\\x00ff"),
    "l": (pa.array([[1, None, 3], None]), "bigint[]", "{1,NULL,3}"),
    "s": (pa.array([["a", 'q"\\{', "NULL", None], None]), "text[]", '{a,"q\\"\\\\{","NULL",NULL}'),
    "j": (json_column(['{"a": 1.10}', None]), "jsonb", '{"a": 1.10}'),
    "v": (pa.array([[0.5, 1.25], None], pa.list_(pa.float32())), "vector(2)", "[0.5,1.25]"),
    "dic": (pa.array(["low", None]).dictionary_encode(), "text", "low"),
}


def test_every_type_goes_into_postgresql_and_comes_back(postgres: Any) -> None:
    names = list(VALUES)
    typed = ", ".join(f"{name} {VALUES[name][1]}" for name in names)
    postgres.run(f"CREATE TABLE all_types (k int PRIMARY KEY, {typed})")
    columns = [pa.array([1, 2]), *(VALUES[name][0] for name in names), pa.array(["succeeded", "failed"])]
    rows = pa.RecordBatch.from_arrays(columns, names=["k", *names, "status"])
    table = SqlTable("all_types", "pg", key="k", columns=["k", *names])
    sink = write(table, rows)
    write(table, rows)
    assert sink.n_nuls == 0
    texts = ", ".join(f'"{name}"::text' for name in names)
    first, second = postgres.rows(f"SET timezone = 'UTC'; SELECT {texts} FROM all_types ORDER BY k")
    assert dict(zip(names, first, strict=True)) == {name: text for name, (_, _, text) in VALUES.items()}
    assert set(second) == {None}
    (back,) = list(SqlSource(SqlQuery("SELECT * FROM all_types ORDER BY k", "pg")).batches())
    for name in ("b", "i", "f", "t", "e", "day", "at", "x"):
        assert back.column(name).to_pylist() == VALUES[name][0].to_pylist(), name


@pytest.mark.parametrize("database_name", ["sqlite", "duckdb"])
def test_a_table_that_is_created_has_what_was_written(request: Any, database_name: str) -> None:
    database = request.getfixturevalue(database_name)
    names = ["b", "i", "f", "t", "e", "day", "x", "j"]
    columns = [pa.array([1, 2]), *(VALUES[name][0] for name in names), pa.array(["succeeded", "failed"])]
    rows = pa.RecordBatch.from_arrays(columns, names=["k", *names, "status"])
    table = SqlTable("made", database.conn_id, key="k", create=True)
    write(table, rows)
    write(table, rows)
    (back,) = list(SqlSource(SqlQuery("SELECT * FROM made ORDER BY k", database.conn_id)).batches())
    assert back.num_rows == 2
    for name in names:
        value = back.column(name).to_pylist()[0]
        expected = VALUES[name][0].to_pylist()[0] if name != "j" else '{"a": 1.10}'
        if database_name == "sqlite":
            expected = {"b": 1, "day": "2026-02-28"}.get(name, expected)
        assert value == expected, name


def test_a_table_of_postgresql_is_created_too(postgres: Any) -> None:
    names = [name for name in VALUES if name != "v"]
    columns = [pa.array([1, 2]), *(VALUES[name][0] for name in names), pa.array(["succeeded", "failed"])]
    rows = pa.RecordBatch.from_arrays(columns, names=["k", *names, "status"])
    table = SqlTable("tests.made", "pg", key="k", create=True)
    SqlSink(table, LOG).check(rows.schema)
    assert postgres.rows("SELECT to_regclass('tests.made')::text") == [(None,)]
    sink = write(table, rows)
    write(table, rows)
    assert sink.uri is not None and sink.uri.endswith("/postgres/tests/made")
    types = dict(
        postgres.rows("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'made'")
    )
    assert (types["j"], types["at"], types["l"]) == ("jsonb", "timestamp with time zone", "ARRAY")


def test_characters_that_postgresql_cannot_hold_are_counted(postgres: Any) -> None:
    postgres.run("CREATE TABLE t (k int PRIMARY KEY, label text, j jsonb)")
    texts = [
        r'{"a": "x\u0000y"}',
        r'{"a": "\\u0000"}',
        r'{"a": "\ud83d\ude00"}',
        r'{"a": "\ud83d"}',
        r'{"a": "\ude00"}',
    ]
    rows = pa.RecordBatch.from_arrays(
        [pa.array(range(5)), pa.array(["a\0b", *"bcde"]), json_column(texts), pa.array(["succeeded"] * 5)],
        names=["k", "label", "j", "status"],
    )
    sink = write(SqlTable("t", "pg", key="k", columns=["k", "label", "j"]), rows)
    assert sink.n_nuls == 4
    assert "4 texts have NUL characters or lone surrogates" in LOG.lines[-1]
    assert postgres.rows("SELECT label FROM t WHERE k = 0") == [("a�b",)]
    assert [row[0]["a"] for row in postgres.rows("SELECT j FROM t ORDER BY k")] == ["x�y", "\\u0000", "😀", "�", "�"]


def test_nanoseconds_are_refused_and_not_rounded(postgres: Any) -> None:
    postgres.run("CREATE TABLE t (k int PRIMARY KEY, at timestamp)")
    rows = pa.RecordBatch.from_arrays(
        [pa.array([1]), pa.array([1], pa.timestamp("ns")), pa.array(["succeeded"])], names=["k", "at", "status"]
    )
    with pytest.raises(InputError, match="column 'at', rows 0 and on"):
        write(SqlTable("t", "pg", key="k", columns=["k", "at"]), rows)


TASKS = """
    from airflow_openai_batch.sql import SqlQuery, SqlTable
    class Label(BaseModel):
        topic: str
    rows = SqlQuery("SELECT id, text FROM tickets ORDER BY id", "{conn_id}")
    table = SqlTable("labels_{{{{ 'nightly' }}}}", "{conn_id}", key=["id"], columns=["id", "topic", "status", "cost"])
    asked = dict(rows=rows, endpoint=CHAT["endpoint"], body=CHAT["body"], storage=STORE, response_model=Label)
    OpenAIBatchOperator(task_id="one", output=table, **asked)
    submit = OpenAIBatchSubmitOperator(task_id="submit", **asked)
    wait = OpenAIBatchSensor(task_id="wait", job=submit.output)
    wait >> OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=table)
"""


def test_a_dag_from_table_to_table(run_dag: Any, emulator: Any, database: Any, capfd: Any) -> None:
    database.run(
        "CREATE TABLE tickets (id integer PRIMARY KEY, text varchar(50))",
        "CREATE TABLE labels_nightly (id integer PRIMARY KEY, topic varchar(50), status varchar(20), cost varchar(30))",
        *(f"INSERT INTO tickets VALUES ({i}, 'a private text {i}')" for i in range(10)),
    )
    run = run_dag(TASKS.format(conn_id=database.conn_id))
    assert run.state == "success"
    rows = database.rows("SELECT id, topic, status FROM labels_nightly ORDER BY id")
    assert [row[0] for row in rows] == list(range(10))
    assert {row[2] for row in rows} == {"succeeded"}
    assert all(row[1] for row in rows)
    manifest = run.xcom("results")
    assert manifest["output"].startswith(("postgres://", "sqlite://", "duckdb://", "mysql://"))
    assert manifest["rows"] == 10
    told = capfd.readouterr()
    assert "private text" not in told.out + told.err
    assert len(list(emulator.ledger.rows())) == 20, "two tasks asked"


def test_a_table_without_a_column_costs_nothing(run_dag: Any, emulator: Any, database: Any) -> None:
    database.run("CREATE TABLE labels (id integer PRIMARY KEY)")
    tasks = f"""
        from airflow_openai_batch.sql import SqlTable
        table = SqlTable("labels", "{database.conn_id}", key=["id"], columns=["id", "output"])
        OpenAIBatchOperator(task_id="one", rows=ROWS, output=table, **CHAT)
        submit = OpenAIBatchSubmitOperator(task_id="submit", rows=ROWS, **CHAT)
        OpenAIBatchResultsOperator(task_id="results", job=submit.output, output=table)
    """
    run = run_dag(tasks)
    assert (run.states["one"], run.states["submit"]) == ("failed", "failed")
    assert not emulator.ledger.batches


def test_tasks_of_a_mapping_do_not_replace_each_others_rows(run_dag: Any, emulator: Any, database: Any) -> None:
    database.run("CREATE TABLE labels (id integer PRIMARY KEY, output varchar(50))")
    for mode, state in (("replace", "failed"), ("upsert", "success")):
        run = run_dag(f"""
            from airflow_openai_batch.sql import SqlTable
            table = SqlTable("labels", "{database.conn_id}", mode="{mode}", key=["id"], columns=["id", "output"])
            OpenAIBatchOperator.partial(task_id="one", output=table, **CHAT).expand(rows=[ROWS[:2], ROWS[2:4]])
        """)
        assert run.state == state
    assert database.rows("SELECT count(*) FROM labels") == [(4,)]


def test_lineage_and_assets_name_the_table() -> None:
    from airflow_openai_batch.reporting.openlineage import dataset_name

    assert dataset_name("postgres://host:5432/warehouse/public/labels") == (
        "postgres://host:5432",
        "warehouse.public.labels",
    )
    assert json.dumps(dataset_name("sqlite:///data/rows.db/labels")) == '["sqlite://", "/data/rows.db/labels"]'
