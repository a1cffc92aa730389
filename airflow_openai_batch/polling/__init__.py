"""One poll for all waits of a connection in a triggerer."""
