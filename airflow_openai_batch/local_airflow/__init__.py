"""A real Airflow on this machine, in processes of its own, on free loopback ports: for the demo, tests and benchmarks.

`stack` starts, hurts and ends it; `celery` is the same with Redis and several workers. `rest` talks to it, `postgres`
is its database where SQLite is not enough, `settings` how it is set up, `processes` what all of it runs in.
"""
