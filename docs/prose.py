"""Separates the mathematics of a text, in the notation of the formula headers, from its words."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .formula import CLOSE, FUNCTIONS, NAMES, NOTHING, OPEN, OPERATORS, SURE, Token, Unreadable, latex, tokens_of

AFTER_A_VARIABLE = {"and", "is", "for", "or", "of", "as", "at", "by", "in", "to", "else", "where", "when"}


class Item(NamedTuple):
    """A part of a text: "text", "code", "math" (value is LaTeX) or "unread", a formula that is shown as it is."""

    kind: str
    value: str


def typeset(text: str, display: bool = False) -> list[Item]:
    """Splits a text into words and formulas."""
    items: list[Item] = []
    for item in _items(tokens_of(text), display):
        if items and items[-1].kind == item.kind == "text":
            items[-1] = Item("text", items[-1].value + item.value)
        elif item.value:
            items.append(item)
    return items


def _items(tokens: list[Token], display: bool) -> Iterator[Item]:
    run: list[Token] = []  # consecutive mathematics
    for token, is_math in zip([*tokens, NOTHING], [*_are_math(tokens), False], strict=True):
        if is_math:
            run.append(token)
            continue
        yield from _items_of_run(run, display)
        run = []
        if token.kind == "code":
            yield Item("text", " " * bool(token.space))
            yield Item("code", token.text.strip("`"))
        else:
            yield Item("text", token.spaced_text)


def _are_math(tokens: list[Token]) -> list[bool]:
    """Which tokens are mathematics. Decided from last to first, because the token that follows tells most."""
    answers: list[bool] = []
    for i in reversed(range(len(tokens))):
        before = tokens[i - 1] if i else NOTHING
        after = tokens[i + 1] if answers else NOTHING
        after_is_math = bool(answers) and answers[-1]
        answers.append(_is_math(before, tokens[i], after, after_is_math))
    return answers[::-1]


def _is_math(before: Token, token: Token, after: Token, after_is_math: bool) -> bool:
    if token.kind != "name":
        return token.kind not in ("code", "word")
    if before.text == "_" and not token.space:
        return True
    if token.text in FUNCTIONS:
        return after_is_math and after.text not in {*CLOSE, *",.:;"}
    if token.text in NAMES:
        hyphenated = after.text == "-" and not after.space
        return not hyphenated and (before.text in {*OPERATORS, *OPEN} or after.text in {*OPERATORS, *OPEN, *CLOSE})
    if token.text in ("a", "A"):
        if after_is_math and (after.kind == "name" or (after.text == "|" and after.space)):
            return before.text in {*OPERATORS, *OPEN, ",", "else"}  # not in `here a c stands`
        return after.kind not in ("name", "word") or after.text in AFTER_A_VARIABLE
    return bool(re.fullmatch(r"[A-Za-z]\d*", token.text)) or token.text.rstrip("0123456789") in SURE


def _items_of_run(run: list[Token], display: bool) -> Iterator[Item]:
    """Yields formulas and the punctuation between them. Brackets that open or close among words are punctuation."""
    formula: list[Token] = []
    inside = 0  # depth of brackets
    for i, token in enumerate([*run, NOTHING]):
        opens = token.text in OPEN and _is_closed(run[i:])
        closes = token.text in CLOSE and inside > 0
        ends_sentence = token.text == "." and not token.space and (i + 1 == len(run) or run[i + 1].space)
        between = token.text in OPEN or token.text in CLOSE or token.text in {*",;:"} or ends_sentence
        if token is not NOTHING and (opens or closes or inside or not between):
            if formula and len(token.space) > 1:
                yield from _items_of_formula(formula, display)
                yield Item("text", "\N{EM SPACE}")
                formula = []
            formula.append(token)
            inside += opens - closes
        else:
            yield from _items_of_formula(formula, display)
            formula = []
            yield Item("text", token.spaced_text)


def _is_closed(run: list[Token]) -> bool:
    depth = 0
    for token in run:
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if depth == 0:
            return True
    return False


def _items_of_formula(tokens: list[Token], display: bool) -> Iterator[Item]:
    hyphen = len(tokens) > 1 and tokens[-1].text == "-" and not tokens[-1].space  # tau-quantile
    tokens = tokens[: len(tokens) - hyphen]
    text = "".join(token.spaced_text for token in tokens)
    plain = all(token.kind == "sign" for token in tokens) or re.fullmatch(r" ?[-(]?\d[\d.e-]*\)?", text)
    if plain:
        yield Item("text", text)
    else:
        yield Item("text", " " * bool(tokens[0].space))
        try:
            yield Item("math", latex(tokens, display))
        except Unreadable:
            yield Item("unread", text.strip())
    yield Item("text", "-" * hyphen)
