"""A text that matches a regular expression, for the plain expressions that schemas use.

Understood: literals, escapes, `.`, classes, groups, alternatives, `? * + {m,n}` and anchors. Not: look-around,
back-references, boundaries.
"""

from __future__ import annotations

import random
import re
import string

_SHORTHANDS = {"d": string.digits, "w": string.ascii_letters + string.digits + "_", "s": " "}
_ANY = string.ascii_letters + string.digits
_REPEAT = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_MORE = 2  # how often beyond the least an open repetition may go on


def make_match(pattern: str, rng: random.Random) -> str:
    """Return a text in which the pattern is found.

    Raises:
        ValueError: The pattern needs what is not understood here.
    """
    maker = _Maker(pattern, rng)
    text = maker.alternatives()
    if maker.rest or re.search(pattern, text) is None:
        raise ValueError(f"The emulator cannot make a text for the pattern '{pattern}'.")
    return text


class _Maker:
    """Reads the pattern once, from left to right, and makes the text on the way."""

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
            least, most = self._repetition()
            times = self._rng.randint(least, most)
            text += first if times else ""
            for _ in range(times - 1):
                again = _Maker(atom, self._rng)
                text += again._atom()
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
                raise ValueError("Look-around is not understood.")
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
            raise ValueError(f"The escape '{char}' is not understood.")
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
        found = _REPEAT.match(self.rest)
        if found:
            self.rest = self.rest[found.end() :]
            least = int(found[1])
            most = int(found[3]) if found[3] else least + _MORE if found[2] else least
        else:
            marks = {"?": (0, 1), "*": (0, _MORE), "+": (1, 1 + _MORE)}
            least, most = marks.get(self.rest[:1], (1, 1))
            self.rest = self.rest[self.rest[:1] in marks :] if self.rest else ""
        if self.rest.startswith("?") and (least, most) != (1, 1):
            self.rest = self.rest[1:]  # a lazy repetition matches the same texts
        return least, most
