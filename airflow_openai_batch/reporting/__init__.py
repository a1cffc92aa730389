"""What people, metrics, traces and catalogues learn of a job."""
