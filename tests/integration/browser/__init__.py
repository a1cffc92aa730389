"""A package, so that pytest ends the browser and the night's jobs before other tests of the same Airflow begin."""
