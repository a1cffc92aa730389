"""Small frozen values that operators take where one plain argument does not say enough."""

from __future__ import annotations

from airflow_openai_batch.engine.requests.csv_files import CsvFile

__all__ = ["CsvFile"]
