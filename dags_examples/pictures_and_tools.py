"""Show a model pictures, and let it call a function of yours: what comes back are the calls, as data.

For product photos, receipts or scans. A batch cannot run a tool: the results have the arguments, and your own task
does what they say, as here, where they become rows of a shop's catalogue.
"""

import json
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import dag, task

from airflow_openai_batch.operators import OpenAIBatchOperator

# [START pictures_and_tools]
PICTURES = [
    # Addresses that OpenAI can reach, or data URLs ("data:image/jpeg;base64,…") for what is not public.
    {
        "sku": "A-1",
        "url": "https://upload.wikimedia.org/wikipedia/commons/3/36/Hopetoun_falls.jpg",
        "sizes": ["S", "M"],
    },
    {"sku": "A-2", "url": "https://upload.wikimedia.org/wikipedia/commons/4/47/PNG_transparency_demonstration_1.png"},
]
ADD_TO_CATALOGUE = {
    "type": "function",
    "name": "add_to_catalogue",
    "description": "Add what is in the picture to the catalogue.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"title": {"type": "string"}, "colors": {"type": "array", "items": {"type": "string"}}},
        "required": ["title", "colors"],
        "additionalProperties": False,
    },
}


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), tags=["openai_batch"])
def pictures_and_tools() -> None:
    """Describe pictures for a catalogue."""
    calls = OpenAIBatchOperator(
        task_id="calls",
        rows=PICTURES,
        endpoint="/v1/responses",
        body={
            "model": "gpt-6-luna",
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "This is the article {sku}."},
                        {"type": "input_image", "image_url": "{url}", "detail": "low"},
                    ],
                }
            ],
            "tools": [ADD_TO_CATALOGUE],
            "tool_choice": {"type": "function", "name": "add_to_catalogue"},
        },
        custom_id="{sku}",
    )

    @task
    def catalogue(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the catalogue's rows: `output` is the JSON of the calls."""
        good = [row for row in rows if row["status"] == "succeeded"]
        return [
            {"sku": row["sku"], **json.loads(call["arguments"])} for row in good for call in json.loads(row["output"])
        ]

    catalogue(calls.output)


pictures_and_tools()
# [END pictures_and_tools]
