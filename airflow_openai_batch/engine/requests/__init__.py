"""Rows in, shards out: sources of rows, templates and bodies, request lines, and the files of shards."""
