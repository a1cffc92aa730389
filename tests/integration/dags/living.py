"""The example Dag of Airflow that keeps a table of vectors as its documents are, as it stands."""

from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "dags_examples" / "living_vectors.py"

exec(compile(EXAMPLE.read_text(), __file__, "exec"))
