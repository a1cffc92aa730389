"""What may be removed of jobs, and what removes it: old jobs, files that nobody needs, and jobs to be forgotten."""
