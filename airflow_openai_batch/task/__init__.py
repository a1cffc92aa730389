"""From a running task's context to its job in the engine."""
