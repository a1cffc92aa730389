"""From rows and outcomes to the result table, which is written to a sink."""
