"""Generation of a text that matches a regular expression, for the simple expressions in JSON schemas.

Supported: literals, escapes, `.`, classes, groups, alternatives, `? * + {m,n}` and anchors. Not: look-around,
back-references, boundaries.
"""

from __future__ import annotations

import random
import re
import string

_SHORTHANDS = {"d": string.digits, "w": string.ascii_letters + string.digits + "_", "s": " "}
_ANY = string.ascii_letters + string.digits
_REPEAT = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_EXTRA_REPEATS = 2  # beyond the minimum, where a repetition has no maximum


def make_match(pattern: str, rng: random.Random) -> str:
    """Return a text that contains a match of the pattern.

    Raises:
        ValueError: The pattern uses what is not supported here.
    """
    generator = _TextGenerator(pattern, rng)
    text = generator.alternatives()
    if generator.rest or re.search(pattern, text) is None:
        raise ValueError(f"The emulator cannot generate a text for the pattern '{pattern}'.")
    return text


class _TextGenerator:
    """Parses the pattern once, from left to right, and generates the text meanwhile."""

    def __init__(self, pattern: str, rng: random.Random) -> None:
        self.rest = pattern
        self._rng = rng

    def alternatives(self) -> str:
        """Return a text for everything up to the end of the group."""
        options = [self._sequence()]
        while self.rest.startswith("|"):
            self.rest = self.rest[1:]
            options.append(self._sequence())
        return self._rng.choice(options)

    def _sequence(self) -> str:
        text = ""
        while self.rest and self.rest[0] not in "|)":
            start = self.rest
            first = self._atom()
            atom = start[: len(start) - len(self.rest)]
            minimum, maximum = self._repetition()
            times = self._rng.randint(minimum, maximum)
            text += first if times else ""
            for _ in range(times - 1):
                text += _TextGenerator(atom, self._rng)._atom()
        return text

    def _take(self) -> str:
        if not self.rest:
            raise ValueError("The pattern ends too soon.")
        char, self.rest = self.rest[0], self.rest[1:]
        return char

    def _atom(self) -> str:
        char = self._take()
        if char in "^$":
            return ""
        if char == ".":
            return self._rng.choice(_ANY)
        if char == "\\":
            return self._rng.choice(self._escaped())
        if char == "[":
            return self._rng.choice(self._char_class())
        return self._group() if char == "(" else char

    def _group(self) -> str:
        if self.rest.startswith("?"):
            name = re.match(r"\?:|\?P?<\w+>", self.rest)
            if name is None:
                raise ValueError("Look-around is not supported.")
            self.rest = self.rest[name.end() :]
        text = self.alternatives()
        if self._take() != ")":
            raise ValueError("A group does not end.")
        return text

    def _escaped(self) -> str:
        char = self._take()
        if char in _SHORTHANDS:
            return _SHORTHANDS[char]
        if char.isalnum():
            raise ValueError(f"The escape '{char}' is not supported.")
        return char

    def _char_class(self) -> str:
        is_negated = self.rest.startswith("^")
        if is_negated:
            self._take()
        chars = ""
        while not self.rest.startswith("]") or not chars:
            char = self._take()
            if char == "\\":
                chars += self._escaped()
            elif self.rest.startswith("-") and not self.rest.startswith("-]"):
                self._take()
                chars += "".join(map(chr, range(ord(char), ord(self._take()) + 1)))
            else:
                chars += char
        self._take()
        return "".join(char for char in _ANY if char not in chars) if is_negated else chars

    def _repetition(self) -> tuple[int, int]:
        repeat = _REPEAT.match(self.rest)
        if repeat:
            self.rest = self.rest[repeat.end() :]
            minimum = int(repeat[1])
            maximum = int(repeat[3]) if repeat[3] else minimum + _EXTRA_REPEATS if repeat[2] else minimum
        else:
            operators = {"?": (0, 1), "*": (0, _EXTRA_REPEATS), "+": (1, 1 + _EXTRA_REPEATS)}
            minimum, maximum = operators.get(self.rest[:1], (1, 1))
            self.rest = self.rest[self.rest[:1] in operators :]
        if self.rest.startswith("?") and (minimum, maximum) != (1, 1):
            self.rest = self.rest[1:]  # a lazy repetition matches the same texts
        return minimum, maximum
