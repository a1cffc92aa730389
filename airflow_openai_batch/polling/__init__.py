"""Polling of batches in a triggerer: the waits of a connection share one watcher, which makes few requests."""
