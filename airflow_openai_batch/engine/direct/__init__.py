"""Asking requests synchronously: how fast, by which threads, and how their answers are kept."""
