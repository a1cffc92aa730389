"""The job store: one directory a job, and the index of each shard."""
