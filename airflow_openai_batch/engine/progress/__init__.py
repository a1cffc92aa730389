"""Where a job stands, as people see it. Pure."""
