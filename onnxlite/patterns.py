"""Patterns of names (`fnmatch`): the one matching, and the one check for misspelt patterns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from onnxlite.errors import OptionError

#: Nearest names that an error shows.
_NEAREST = 3
#: Names that are compared; the search for near ones is quadratic in their length.
_COMPARED = 20_000


def matches(names: Iterable[str], patterns: Sequence[str]) -> bool:
    """Tell whether any name matches any pattern; upper and lower case differ."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def check_patterns(
    patterns: Iterable[str], names: Iterable[str], *, what: str, compared: str
) -> None:
    """Refuse patterns that match nothing, which would be ignored without a word.

    Args:
        patterns: of an option.
        names: all names that a pattern may match.
        what: what they name, for the message: `"layer with weights"`.
        compared: what patterns are compared with, for the message.

    Raises:
        OptionError: a pattern matches none of the names; the message has the nearest names.
    """
    known = dict.fromkeys(name for name in names if name)
    unused = [p for p in dict.fromkeys(patterns) if not any(fnmatchcase(n, p) for n in known)]
    if not unused:
        return
    near = list(dict.fromkeys(name for pattern in unused for name in nearest(pattern, known)))
    hint = f" (did you mean {' or '.join(map(repr, near[:_NEAREST]))}?)" if near else ""
    raise OptionError(
        f"no {what} matches {', '.join(map(repr, unused))}{hint}: patterns are compared with "
        f"{compared}"
    )


def nearest(pattern: str, names: Collection[str]) -> list[str]:
    """Return up to 3 names that a pattern may have meant, the most alike first.

    Names that hold the letters of the pattern in any case come before those of similar letters.
    """
    letters = _letters(pattern)
    if not letters:
        return []
    known = list(names)[:_COMPARED]
    held = [name for name in known if letters in name.lower()]
    by_letters: dict[str, list[str]] = {}
    for name in known:
        by_letters.setdefault(name.lower(), []).append(name)
    alike = difflib.get_close_matches(letters, by_letters, _NEAREST)
    found = [*sorted(held, key=len), *(name for like in alike for name in by_letters[like])]
    return list(dict.fromkeys(found))[:_NEAREST]


def _letters(pattern: str) -> str:
    """A pattern in lower case, without its wildcards and escapes."""
    return "".join(_plain(pattern)).lower()


def _plain(pattern: str) -> Iterator[str]:
    for part in re.split(r"(\[[^\]]\]|\[!?\]?[^\]]*\]|[*?])", pattern):
        if len(part) == 3 and part[0] == "[":
            yield part[1]
        elif part not in ("*", "?") and not part.startswith("["):
            yield part
