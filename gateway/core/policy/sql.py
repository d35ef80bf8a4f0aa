"""Whether an SQL text only reads, by a tokenizer that knows little and trusts less.

One statement that starts like a query, made of words, literals and punctuation whose meaning is the
same in every common dialect, calling only functions of a short list. Anything else is a doubt (`None`),
and a word that writes is a `False`. It is not a parser: it never says yes to be helpful.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.policy.verdicts import Verdict

__all__ = ["only_reads"]

MAX_SQL: Final = 100_000
"""Longest text that is judged, in characters."""

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+|--[ \t][^\r\n]*)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<quoted>"[^"\\\x00]*"|`[^`\\\x00]*`)
    |(?P<text>'(?:[^'\\\x00]|'')*')
    |(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)
    |(?P<parameter>\?|\$[0-9]{1,4}|(?<!:):[A-Za-z_][A-Za-z0-9_]*)
    |(?P<mark>::|\|\||<=|>=|<>|!=|==|[-+*/%(),.;=<>])""",
    re.VERBOSE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


_STARTS: Final = frozenset({"select", "with", "values", "explain", "show", "describe", "desc", "table"})
_WRITES: Final = _words(
    """
    insert update delete merge upsert create drop alter truncate grant revoke attach detach vacuum
    reindex copy call do exec execute load into lock set reset handler import install begin commit
    rollback savepoint start prepare deallocate declare analyze optimize repair rename comment discard
    refresh cluster listen notify unlisten kill shutdown use pragma outfile dumpfile procedure trigger
    share
    """
)
# Words before a parenthesis that are no function.
_BEFORE_PAREN: Final = _words(
    """
    select from where and or not in exists any all some as on using join over filter within group by
    having union intersect except values case when then else between like ilike is limit offset distinct
    lateral with recursive order partition end cast explain materialized char varchar character varying
    decimal numeric float time timestamp interval bit binary
    """
)
_FUNCTIONS: Final = _words(
    """
    count sum avg min max total abs round ceil ceiling floor mod power sqrt exp ln log sign coalesce
    nullif ifnull nvl greatest least lower upper length char_length octet_length trim ltrim rtrim substr
    substring replace concat concat_ws instr position left right lpad rpad reverse split_part date
    datetime time strftime julianday extract date_trunc date_part to_char to_date year month day hour
    minute second row_number rank dense_rank ntile lag lead first_value last_value string_agg
    group_concat array_agg json_extract json_array_length json_type typeof iif if stddev variance median
    bool_and bool_or
    """
)


def only_reads(text: str) -> Verdict:
    """Return whether one statement reads and does nothing else; `None` where that is not certain."""
    if len(text) > MAX_SQL:
        return None
    tokens = _tokens(text)
    words = {token for kind, token in tokens if kind == "word"}
    if words & _WRITES:
        # In doubt the word is an innocent column: not a reader for certain, and not a writer either.
        return False if tokens and tokens[0][1] in _WRITES else None
    if any(kind == "doubt" for kind, _ in tokens):
        return None
    while tokens and tokens[-1][1] == ";":
        tokens.pop()
    if not tokens or tokens[0][1] not in _STARTS or ("mark", ";") in tokens:
        return None
    return True if all(map(_harmless, [("", ""), *tokens], tokens, [*tokens[1:], ("", "")])) else None


def _tokens(text: str) -> list[tuple[str, str]]:
    """Return kind and text of each token, words in lower case; what is unknown is one `doubt` at its end."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            tokens.append(("doubt", text[at]))
            # Words behind a doubt still tell a writer from a riddle.
            tokens += [("word", word.lower()) for word in re.findall(r"[A-Za-z_]+", text[at:])]
            break
        kind = match.lastgroup or "doubt"
        if kind != "space":
            tokens.append((kind, match[0].lower() if kind == "word" else match[0]))
        at = match.end()
    return tokens


def _harmless(before: tuple[str, str], token: tuple[str, str], after: tuple[str, str]) -> bool:
    """Whether a token is no call, or one of a function that is known to compute and no more."""
    if after != ("mark", "("):
        # `E'..'`, `N'..'` and the like change what a literal means.
        return not (token[0] == "word" and after[0] == "text" and len(token[1]) < 3)
    if token[0] == "word":
        named = before[1] in ("with", "recursive")  # a common table with its columns
        schema = before == ("mark", ".")
        return named or (not schema and (token[1] in _FUNCTIONS or token[1] in _BEFORE_PAREN))
    return token[0] == "mark" and token[1] not in (")", ".")
