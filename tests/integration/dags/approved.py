"""The example Dag of Airflow with an approval between plan and sensor, as it stands."""

from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "dags_examples" / "approved_labeling.py"

exec(compile(EXAMPLE.read_text(), __file__, "exec"))
