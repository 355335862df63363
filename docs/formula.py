"""Translates the notation of the formula headers to LaTeX.

x^ is a hat, e^-z and e^(a + b) are powers, x_ij and x_(k+1) indices, [i = j] is 1 or 0, g.v and g . v are inner
products, a ^ b is the exclusive or, and d2l/du_i du_j a derivative. a/b divides only its neighbors, a b / c the whole
product before it. Ambiguous formulas are rejected.
"""

import re
from typing import NamedTuple

_GREEK = ("alpha", "beta", "gamma", "delta", "eta", "lambda", "mu", "xi", "pi", "rho", "sigma", "tau", "Phi")
_UPRIGHT = ("mean", "std", "low", "high", "fan", "gain", "density", "seed", "offset", "slope", "shift", "lr")
SURE = {name: rf"\{name}" for name in _GREEK} | {"eps": r"\varepsilon", "lse": r"\mathrm{lse}"}  # never English words
FUNCTIONS = {name: rf"\{name}" for name in ("sum", "log", "ln", "sin", "cos", "tanh", "sqrt")}
FUNCTIONS |= {name: rf"\mathrm{{{name}}}" for name in ("max", "min", "diag", "Var")}
NAMES = {name: rf"\mathrm{{{name}}}" for name in (*_UPRIGHT, "backward", "curvature")} | {"infinity": r"\infty"}
VOCABULARY = SURE | FUNCTIONS | NAMES
RELATIONS = {"=": "=", "<": "<", ">": ">", "~": r"\sim", "<=": r"\leq", ">=": r"\geq", "!=": r"\neq"}
RELATIONS |= {"->": r"\to", "<-": r"\leftarrow"}
FACTOR_SIGNS = {"*": "*", ".": r"\cdot", "%": r"\bmod", "^": r"\oplus"}
OPERATORS = {*RELATIONS, *"+-*/^_%±"}
OPEN, CLOSE = {"(": "(", "[": "[", "{": r"\{"}, {")": ")", "]": "]", "}": r"\}"}

_WORDS = "|".join(sorted(VOCABULARY, key=len, reverse=True))
_SYMBOL = rf"(?:{_WORDS}|[A-Za-z])(?:\^(?=_))?'?(?:_[a-z])?"
_TOKEN = re.compile(
    rf"""(?P<space>\s*)(?:
    (?P<derivative>d2?(?:{_SYMBOL}){{1,2}}(?:\.{_SYMBOL})?/d{_SYMBOL}2?(?:\ ?d{_SYMBOL})?(?![A-Za-z]))
    |(?P<code>`[^`]+`|[\w/]+\.(?:h|py)\b|[A-Za-z]\w+(?:(?:\.|::)[A-Za-z]\w+)+|(?!(?:{_WORDS})_)[A-Za-z]{{2,}}(?:_\w+)+)
    |(?P<word>[A-Za-z]*'s\b|[A-Za-z]+s'(?=\s)|(?!(?:{_WORDS})\d)[A-Za-z]{{2,}}\d\w*(?:-\d+)?)
    |(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)
    |(?P<name>[A-Za-z]+\d*)
    |(?P<sign>->|<-|<=|>=|!=|\.\.\.|.))""",
    re.VERBOSE,
)


class Unreadable(ValueError):
    """A formula that is wrong or ambiguous."""


class Token(NamedTuple):
    kind: str
    text: str
    space: str  # the space before it

    @property
    def spaced_text(self) -> str:
        return " " * bool(self.space) + self.text


NOTHING = Token("end", "", "")


def tokens_of(text: str) -> list[Token]:
    return [Token(str(m.lastgroup), m[str(m.lastgroup)], m["space"]) for m in _TOKEN.finditer(text.rstrip())]


def latex(formula: str | list[Token], display: bool = False) -> str:
    """Translates a formula. With `display`, fractions are stacked."""
    return _Reader(tokens_of(formula) if isinstance(formula, str) else formula, display).whole()


class _Reader:
    """A recursive-descent parser: statement, sum, product, factor, atom."""

    def __init__(self, tokens: list[Token], display: bool) -> None:
        self.tokens = tokens
        self.at = 0
        self.display = display
        self.in_bars = False

    def whole(self) -> str:
        text = self.statement()
        if self.at < len(self.tokens):
            raise Unreadable(self.token().text)
        return text

    def token(self, ahead: int = 0) -> Token:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else NOTHING

    def next(self, *texts: str) -> bool:
        return self.token().text in texts

    def tight(self, ahead: int = 0) -> bool:
        return self.token(ahead) is not NOTHING and not self.token(ahead).space

    def take(self) -> Token:
        token = self.token()
        if token is NOTHING:
            raise Unreadable("the end")
        self.at += 1
        return token

    def statement(self) -> str:
        """Sums separated by relations or commas. May start or end with a relation: = 1/4, y =."""
        text = ""
        ready = True  # to read a sum
        while self.token() is not NOTHING and not self.next(*CLOSE):
            if self.next(*RELATIONS):
                text, ready = f"{text} {RELATIONS[self.take().text]}", True
            elif self.next(",") and not ready:
                text, ready = text + self.take().text, True
            elif ready:
                text, ready = f"{text} {self.sum()}", False
            else:
                raise Unreadable(self.token().text)
        if not text or text.endswith(","):
            raise Unreadable(text)
        return text.strip()

    def sum(self) -> str:
        sign = self.take().text if self.next("-", "+", "±") else ""
        text = sign.replace("±", r"\pm ") + self.product()
        while self.next("-", "+"):
            text += f" {self.take().text} {self.product()}"
        return text

    def product(self) -> str:
        """Factors side by side, quotients, and the operators of the same precedence."""
        parts = [self.part("")]
        while True:
            if self.next("/"):
                tight = self.tight() and self.tight(1)
                starts = [i for i, part in enumerate(parts) if self.tokens[part.begin].space]
                first = max(starts, default=0) if tight else 0
                if first and parts[first - 1].latex in FUNCTIONS.values():
                    raise Unreadable("a divisor of the function, or of what it is a function of")
                parts[first:] = [parts[first]._replace(latex=self.quotient(parts[first].begin, tight))]
            elif self.is_factor_sign():
                parts.append(self.part(f" {FACTOR_SIGNS[self.take().text]} "))
            elif self.starts_factor():
                after_sum = parts[-1].latex.startswith(r"\sum")
                parts.append(self.part(" " if after_sum else r"\," if self.token().space else ""))
            else:
                return "".join(part.before + part.latex for part in parts)

    def part(self, before: str) -> "_Part":
        return _Part(self.at, before, self.factor())

    def quotient(self, begin: int, tight: bool) -> str:
        """Reads a quotient at its slash. The dividend starts at the token `begin`."""
        display, self.display = self.display, False
        dividend = _Reader(self.tokens[begin : self.at], False).product()
        self.take()
        if self.next("sum"):
            divisor = self.product()
        else:
            bracketed = self.next(*OPEN, "|")
            divisor = self.factor()
            while self.starts_factor() and self.tight():  # 1/2L
                divisor += self.factor()
            could_go_on = not (tight or bracketed) or self.tokens[self.at - 1].text in FUNCTIONS
            if could_go_on and (self.starts_factor() or self.next("/")):
                raise Unreadable("a factor of the divisor, or of all")
        self.display = display
        if display:
            return rf"\frac{{{_bare(dividend)}}}{{{_bare(divisor)}}}"
        return dividend + ("/" if tight else " / ") + divisor

    def is_factor_sign(self) -> bool:
        if self.next("."):
            return self.tight() == self.tight(1)
        return self.next("*", "%") or (self.next("^") and not self.tight() and not self.tight(1))

    def starts_factor(self) -> bool:
        known = self.token().kind in ("name", "number", "derivative")
        return known or self.next(*OPEN, "...") or (self.next("|") and not self.in_bars)

    def factor(self) -> str:
        text = self.atom()
        while self.tight():
            if self.next("'"):
                text += self.take().text
            elif self.next("_"):
                self.take()
                below = r"\limits" if text == r"\sum" and self.display else ""
                text += f"{below}_{{{self.index()}}}"
            elif self.next("*") and (not self.tight(1) or self.token(1).text in CLOSE):  # x*, the solution
                self.take()
                text += "^{*}"
            elif self.next("^"):
                is_hat = not self.is_power()
                self.take()
                text = rf"\hat{{{text}}}" if is_hat else f"{text}^{{{self.exponent()}}}"
            else:
                break
        return text

    def is_power(self) -> bool:
        """Whether the token after ^ can start an exponent."""
        following = self.token(1)
        return self.tight(1) and (following.kind in ("name", "number") or following.text in {"-", *OPEN})

    def index(self) -> str:
        if self.next(*OPEN):
            return _bare(self.group())
        name = self.take().text
        return VOCABULARY.get(name, name if len(name) < 3 else rf"\mathrm{{{name}}}")

    def exponent(self) -> str:
        display, self.display = self.display, False
        if self.next(*OPEN):
            text = _bare(self.group())
        else:
            text = (self.take().text if self.next("-") else "") + self.atom()
            if text[-1].isdigit() and self.tight() and self.token().kind == "name":  # e^2z
                text += self.atom()
            if self.next("_") and self.tight():
                raise Unreadable("an index of the power, or of the exponent")
        self.display = display
        return text

    def group(self) -> str:
        in_bars, self.in_bars = self.in_bars, False
        opening = self.take().text
        inside = self.statement()
        closing = self.take().text
        self.in_bars = in_bars
        tall = r"\frac" in inside or r"\sum" in inside
        return (r"\left" if tall else "") + OPEN[opening] + inside + (r"\right" if tall else "") + CLOSE[closing]

    def atom(self) -> str:
        if self.next(*OPEN):
            return self.group()
        token = self.take()
        if token.text == "|" and not self.in_bars:
            self.in_bars = True
            inside = self.sum()
            self.in_bars = False
            if self.take().text != "|":
                raise Unreadable("|")
            return rf"\left|{inside}\right|"
        if token.text == "sqrt":
            return rf"\sqrt{{{_bare(self.factor())}}}"
        if token.text == "...":
            return r"\ldots"
        if token.kind == "number":
            digits, _, power = token.text.partition("e")
            return digits if not power else ("" if digits == "1" else rf"{digits} \cdot ") + f"10^{{{power}}}"
        if token.kind == "derivative":
            return self.derivative(token.text)
        letters = token.text.rstrip("0123456789")
        if token.kind != "name" or (len(letters) > 1 and letters not in VOCABULARY):
            raise Unreadable(token.text)
        digits = token.text[len(letters) :]
        return VOCABULARY.get(letters, letters) + (f"_{{{digits}}}" if digits else "")

    def derivative(self, text: str) -> str:
        """Translates a derivative, such as dL/dx_i, d2l/dx2 or d2l/du_i du_j."""
        over, under = text.split("/")
        of = re.findall(rf"\.|{_SYMBOL}", over.removeprefix("d2" if over[1] == "2" else "d"))
        by = re.findall(rf"d({_SYMBOL})", under)
        dividend = ("d^{2}" if over[1] == "2" else "d") + "".join(r" \cdot " if x == "." else latex(x) for x in of)
        divisor = r"\,".join("d" + latex(x) for x in by) + ("^{2}" if under[-1] == "2" else "")
        return rf"\frac{{{dividend}}}{{{divisor}}}" if self.display else f"{dividend}/{divisor}"


class _Part(NamedTuple):
    """A factor of a product."""

    begin: int  # its first token
    before: str  # the LaTeX that separates it from the previous factor
    latex: str


def _bare(text: str) -> str:
    """Removes ( ) or { } around the whole text."""
    depth = 0
    for match in re.finditer(r"\\left\\?[([{]|\\right\\?[)\]}]|\\?[([{]|\\?[)\]}]", text):
        depth += 1 if match[0][-1] in "([{" else -1
        if depth == 0:
            opening = re.match(r"(?:\\left)?(?:\(|\\\{)", text)
            if opening and match.end() == len(text):
                return text[opening.end() : match.start()]
            return text
    return text
