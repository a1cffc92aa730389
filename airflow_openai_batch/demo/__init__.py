"""The demo: `dags_examples/nightly_labeling.py` in a real Airflow, against the emulator. No key, no cost.

Run it with `python -m airflow_openai_batch.demo`; with `--ui` there is a busy night of jobs to look at. `packages` has
the rows, `labeler` answers the requests, `scenes` say what is run and what goes wrong, `stack` starts and ends Airflow
and the emulator, `screen` draws what is seen, `night` goes on.
"""
