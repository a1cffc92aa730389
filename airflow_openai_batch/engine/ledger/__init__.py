"""The ledger: good answers of earlier jobs, found by the digest of their request."""
