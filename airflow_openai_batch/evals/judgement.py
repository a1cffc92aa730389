"""What a judge answers, and the names that both prompts and the judge share. Light: a Dag file imports it."""

from __future__ import annotations

from typing import Any

SIDES = ("baseline", "candidate")

PREFIX = "answer_"
"""What stands before the fields of the answers, so that an expected column may have the name of one."""

JUDGE_SCHEMA: dict[str, Any] = {
    "title": "Judgement",
    "type": "object",
    "properties": {
        "reason": {"type": "string", "description": "Why, in a sentence."},
        "score": {"type": "integer", "enum": [1, 2, 3, 4, 5], "description": "1 is useless, 5 is perfect."},
    },
    "required": ["reason", "score"],
    "additionalProperties": False,
}
"""What a judge answers. The reason comes first, so that the score follows from it."""
