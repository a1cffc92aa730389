"""Look at a job, or command it: ``python -m airflow_openai_batch COMMAND …``; see ``cli``."""

import sys

from airflow_openai_batch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
