"""Documents cut into chunks, for embeddings: what the ``rows`` of an operator take, and the function that cuts."""

from airflow_openai_batch.engine.requests.chunk_text import Chunk, chunk_text
from airflow_openai_batch.engine.requests.chunks import Chunks

__all__ = ["Chunk", "Chunks", "chunk_text"]
