"""The demo: `dags_examples/nightly_labeling.py` in a real Airflow, against the emulator. No key, no cost.

Run it with `python -m airflow_openai_batch.demo`. `packages` has the rows, `labeler` answers the requests, `stack` and
`processes` start and end Airflow and the emulator, `airflow_rest` talks to Airflow, `screen` draws what is seen.
"""
