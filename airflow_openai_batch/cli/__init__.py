"""The command line: ``python -m airflow_openai_batch COMMAND …``. Looks at jobs in the job store, and commands them.

``main`` reads the arguments, ``jobs`` finds the job, ``look`` tells of it, ``order`` leaves commands; each command
returns an ``Answer``, which is printed as text or, with ``--json``, as one JSON value.
"""
