"""The page "OpenAI Batches" in Airflow's UI: a plugin that serves static files, and the files.

The page reads Airflow's public REST API with the viewer's own session. The package serves no data.
"""
