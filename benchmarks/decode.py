"""Three ways to decode the lines of an output file, without what comes after it.

    python benchmarks/decode.py [--rows 50000]

The same lines as parse.py's, in memory. "Ours" decodes each line with types and takes out what is kept, as the fast
parser does. `arrow` lets Arrow's JSON reader make columns of the same fields, without a Python object for a value.
`brackets` lets simdjson parse each line, and takes nothing out of it.
"""

from __future__ import annotations

import io
import sys

import answers
import workload
from measure import Benchmark
from sample import Case

bench = Benchmark(__file__, __doc__)
group = bench.group("decode", "{rows} output lines, decoded", rows=50_000, quick_rows=2_000, unit="lines")


def _content(case: Case) -> bytes:
    output, _ = answers.files(case.data, 0, case.rows, workload.RESPONSES)
    return output.read_bytes()


@group.method("ours", "this package's fast parser")
def ours(case: Case) -> None:
    """Decode each line with types."""
    from airflow_openai_batch.engine.answers.parser import LineParser

    lines, parser = _content(case).splitlines(), LineParser(workload.RESPONSES)
    with case.timed():
        rows = parser.read_fast(lines)
    case.check(lines=len(rows))


@group.method("arrow", "pyarrow.json")
def arrow(case: Case) -> None:
    """Make columns of the same fields."""
    import pyarrow as pa
    import pyarrow.json

    details = pa.struct([("cached_tokens", pa.int64()), ("cache_write_tokens", pa.int64())])
    usage = [("input_tokens", pa.int64()), ("output_tokens", pa.int64()), ("input_tokens_details", details)]
    usage.append(("output_tokens_details", pa.struct([("reasoning_tokens", pa.int64())])))
    text = pa.struct([("type", pa.string()), ("text", pa.string())])
    item = pa.struct([("type", pa.string()), ("content", pa.list_(text))])
    body = [("status", pa.string()), ("model", pa.string()), ("output", pa.list_(item)), ("usage", pa.struct(usage))]
    response = [("status_code", pa.int64()), ("request_id", pa.string()), ("body", pa.struct(body))]
    schema = pa.schema([("custom_id", pa.string()), ("response", pa.struct(response))])
    how = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    blocks = pyarrow.json.ReadOptions(block_size=4 * 1024 * 1024)
    content = _content(case)
    with case.timed():
        table = pyarrow.json.read_json(io.BytesIO(content), blocks, how)
    case.check(lines=table.num_rows)


@group.method("brackets", "limit: simdjson, nothing taken out")
def brackets(case: Case) -> None:
    """Parse each line."""
    import simdjson

    lines, parser = _content(case).splitlines(), simdjson.Parser()
    with case.timed():
        for line in lines:
            parser.parse(line)
    case.check(lines=len(lines))


if __name__ == "__main__":
    sys.exit(bench.main())
