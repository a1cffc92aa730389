"""From the lines of output and error files to outcomes, one for each row of a shard."""
