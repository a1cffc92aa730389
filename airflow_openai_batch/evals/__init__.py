"""Two prompts side by side over a golden set, at half price: is the candidate no worse than the baseline?

    python -m airflow_openai_batch.evals eval.toml --report report

asks both prompts about every row of the golden set, scores the answers (against the expected ones, by a judge that is
a batch itself, or both), and holds the difference against a tolerance. Exit status 0 lets a build go on, 1 stops it;
the report is kept in both cases. A Dag uses the same functions: ``dags_examples/prompt_evals.py``.

* ``spec``        the TOML file that says what is compared
* ``scores``      answers become scores, and rows for the judge
* ``judgement``   what the judge answers
* ``statistics``  scores become intervals and a verdict
* ``result``      both together: what became of an eval
* ``report``      all of it as Markdown with a plot, as JSON, and row by row
* ``runner``      the batches, without Airflow

Airflow is needed nowhere here.
"""
