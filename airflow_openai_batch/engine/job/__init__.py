"""The life of a job: the state machine, its plan, its actions, and what moves it."""
