"""OpenAI's Files and Batches API: the calls, what comes back, and what an error means."""
