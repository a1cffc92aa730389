"""Rows and outcomes become one table, written to a sink."""
