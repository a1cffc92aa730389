"""Strict structured output: the schema of an answer, its check, and its types as columns."""
