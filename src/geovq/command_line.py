"""The words of the command line, made ready for Hydra.

Hydra reads ``run=923`` and ``run=7e4154`` as numbers, and passes on to the jobs of a sweep what it has read. So words
for keys that hold text are quoted here, before Hydra reads them; so are the names of options (``data=5``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from geovq.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
_MULTIRUN = ("-m", "--multirun")
_OVERRIDE = re.compile(r"([+]{0,2})([A-Za-z_][\w./@:-]*)=(.*)", re.DOTALL)


def prepared(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments as Hydra should read them, ``-m`` first, and remarks on what may not be meant.

    Raises ConfigError: a word that is no ``key=value``, or a range without a value.
    """
    words = [word for word in arguments if word not in _MULTIRUN]
    given: dict[str, str] = {}
    remarks = []
    for before, word in zip(["", *words], words, strict=False):
        override = _OVERRIDE.fullmatch(word)
        if override is None:
            if not word.startswith(("-", "~")) and not before.startswith("-"):
                both = f"if it belongs to the word before it, quote both: {quoted(f'{before} {word}')}"
                remedy = f"; {both}" if _OVERRIDE.fullmatch(before) else "; --help lists the keys"
                raise ConfigError(f"{word}: no key=value{remedy}")
            continue
        key = override[2]
        if re.search(r"(^|,)_", override[3]) and (CONFIGS / key).is_dir():
            raise ConfigError(f"{word}: what all options of {key} share, and no option itself; --help lists those")
        if re.fullmatch(r"(data|vae|quantizer|transformer|prior)\.name", key):
            group = key.partition(".")[0]
            raise ConfigError(f"{word}: the name of the option chosen; choose another by {group}={override[3]}")
        if given.get(key, word) != word:
            remarks.append(f"{given[key]} is without effect: {word} comes after it")
        given[key] = word
        if re.match(r"range\s*\(", override[3]) and _is_empty(word):
            raise ConfigError(f"{word}: this range has no value, so there is nothing to run; its end is not included")
    leading = ["-m"] if len(words) < len(arguments) else []
    return leading + [_with_text_quoted(word) for word in words], remarks


def with_key(arguments: list[str], key: str) -> list[str]:
    """The arguments, of which the first is meant for ``key`` where it is neither an option nor a ``key=value``.

    >>> with_key(["photos.gvq", "prefix=0.5"], "file")
    ["file='photos.gvq'", 'prefix=0.5']
    """
    if not arguments or arguments[0].startswith("-") or _OVERRIDE.fullmatch(arguments[0]):
        return arguments
    return [as_text(key, arguments[0]), *arguments[1:]]


def as_text(key: str, value: str) -> str:
    """An override whose value reaches the program as text, letter by letter."""
    from hydra.core.override_parser.types import Quote, QuotedString

    value = value.replace("${", "\\${")  # else it names another key
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def _is_empty(word: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        (override,) = OverridesParser.create().parse_overrides([word])
        return override.is_range_sweep() and next(override.sweep_string_iterator(), None) is None
    except (HydraException, ValueError, ArithmeticError):
        return False  # not a range that Hydra can read: it says so itself


def quoted(override: str) -> str:
    """An override as it must be typed in a shell, so that its value reaches the program as text, letter by letter.

    >>> print(quoted("data.path=/my pics (1)/x"))
    "data.path='/my pics (1)/x'"
    """
    key, _, value = override.partition("=")
    word = as_text(key, value)
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'


def _with_text_quoted(word: str) -> str:
    """An override whose numbers, switches and paths below ``~`` are quoted where its key holds text."""
    override = _OVERRIDE.fullmatch(word)
    if override is None or not re.search(r"[=,\[]\s*([+-]?[\d.]|true|false|null|nan|inf|~)", word, re.IGNORECASE):
        return word
    is_group = (CONFIGS / override[2].partition("@")[0]).is_dir()
    if not is_group and override[2] not in text_keys():
        return word
    from antlr4 import CommonTokenStream, InputStream
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.grammar.gen.OverrideLexer import OverrideLexer

    # A shell leaves ~ behind = alone, and Hydra has no such letter.
    word = re.sub(r"(?<=[=,\[])~[^\s,()\[\]{}'\"\\:=#]*(?=[,\]]|$)", lambda path: f"'{path[0]}'", word.rstrip())
    lexer = OverrideLexer(InputStream(word))
    lexer.removeErrorListeners()
    stream = CommonTokenStream(lexer)
    stream.fill()
    *tokens, end = stream.tokens
    read_as_other = {lexer.INT, lexer.FLOAT, lexer.BOOL} | ({lexer.NULL} if is_group else set())
    opening = {lexer.EQUAL, lexer.COMMA, lexer.BRACKET_OPEN}
    closing = {end.type, lexer.COMMA, lexer.BRACKET_CLOSE}
    parts = []
    for before, token, after in zip([end, *tokens], tokens, [*tokens[1:], end], strict=False):
        alone = before.type in opening and after.type in closing and token.type in read_as_other
        parts.append(QuotedString(token.text, Quote.single).with_quotes() if alone else token.text)
    # What the lexer skipped is no word of its grammar: Hydra says so itself.
    return word if "".join(token.text for token in tokens) != word else "".join(parts)


@cache
def text_keys() -> frozenset[str]:
    """All keys of the entry points that hold text, by the types of their sections."""
    from geovq.commands import ENTRY_POINTS, settings_of

    return frozenset(key for name in ENTRY_POINTS for key in _texts(settings_of(name)))


def _texts(section: type) -> Iterator[str]:
    from geovq.configuration.parse import parts_of
    from geovq.configuration.section import Section

    assert issubclass(section, Section)
    for name, field in section.model_fields.items():
        name = field.alias or name
        for part in parts_of(field.annotation):
            if part is str:
                yield name
            elif isinstance(part, type) and issubclass(part, Section):
                yield from (f"{name}.{key}" for key in _texts(part))
