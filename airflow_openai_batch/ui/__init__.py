"""The page "OpenAI Batches" in Airflow's UI: a plugin that serves static files, and the files.

The page reads Airflow's public REST API with the viewer's own session. The package serves one thing with data: a
sample of a job's requests and answers, for those who may read the logs of the Dag's tasks.
"""
