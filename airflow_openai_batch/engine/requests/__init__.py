"""From rows to shards: sources of rows, templates and request bodies, request lines, and the files of shards."""
