from __future__ import annotations

from airflow_openai_batch.engine.requests.lines import default_custom_ids


def test_default_custom_ids_name_rows_and_digests() -> None:
    digests = [bytes.fromhex("9f86d081" + "00" * 12), bytes.fromhex("00ab00cd" + "ff" * 12)]
    assert default_custom_ids(12, digests) == ["r0000012-9f86d081", "r0000013-00ab00cd"]
    assert default_custom_ids(99_999_999, digests[:1]) == ["r99999999-9f86d081"]
    assert default_custom_ids(0, []) == []
