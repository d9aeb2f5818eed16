r"""Model text to HTML that is safe to show in a trusted output.

What a model writes is untrusted, and a notebook runs what stands in the output
of a cell. So the tokens of the Markdown parser are written out by this module
itself: the tags and attributes below are all there are, and everything else is
escaped text. Math becomes escaped LaTeX between `\(…\)` and `\[…\]`, which
JupyterLab, Notebook and nbconvert typeset.
"""

from __future__ import annotations

import html
import re
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

_MAX_NESTING = 30
_MAX_ADDRESS = 200
_MAX_DEFINITIONS = 1000

_SURROGATES = re.compile(r"[\ud800-\udfff]")
_NEWLINE = re.compile(r"\r\n?|\n")
# Lines that may all be of one list, one table or one quotation. Saying so too often is
# safe, and saves a long list from being parsed at each step of its growth.
_ONE_BLOCK = re.compile(
    r"(?:[-*+]|\d{1,9}[.)])[ \t][^\n]*\n(?:(?:[-*+]|\d{1,9}[.)])?[ \t][^\n]*\n|\n)*+"
    r"|(?:[|>][^\n]*\n)++"
)
_HARMLESS: Mapping[int, int | None] = MappingProxyType(
    {code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
    | dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), None)
)


def to_terminal(text: str) -> str:
    """Make *text* harmless for a terminal: no control character but newline and tab is left.

    Control characters are shown as pictures (`␛`), and those that turn the
    direction of writing are left out. What comes back can be written as UTF-8.
    """
    if _SURROGATES.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _NEWLINE.sub("\n", text).translate(_HARMLESS)


def to_html(text: str) -> str:
    """Render untrusted Markdown as HTML that runs nothing and fetches nothing.

    Text that the parser cannot take comes back whole, as it was written.
    """
    clean = to_terminal(text)
    try:
        tokens = _parser(references=_few_definitions(clean)).parse(clean)
        # The parser drops what is nested deeper than its limit.
        if all(token.level < _MAX_NESTING - 1 for token in tokens):
            return "".join(_blocks(tokens))
    except Exception:  # noqa: BLE001, S110 - whatever failed, the answer is paid for and is shown
        pass
    return f'<pre style="white-space:pre-wrap">{html.escape(clean)}</pre>\n'


def settled(text: str) -> int:
    """Tell how much of a growing *text* is made of finished top-level blocks.

    With `n = settled(text)`, `to_html(text[:n]) + to_html(text[n:])` equals
    `to_html(text)`, and later text cannot change the first part; 0 while only
    one block is open. One exception is accepted: a link whose address is defined
    further down (`[1]: https://…`) stays plain text in the first part. What
    follows a definition is never settled, so that definition keeps its links.
    """
    whole = text[: text.rfind("\n") + 1]
    if not whole or _ONE_BLOCK.fullmatch(whole):
        return 0
    env: dict[str, Any] = {}
    clean = to_terminal(whole)
    tokens = _parser(references=_few_definitions(clean), inline=False).parse(clean, env)
    blocks = [token.map for token in tokens if token.level == 0 and token.map]
    definitions = [entry["map"][0] for entry in env.get("references", {}).values()]
    definitions += [entry["map"][0] for entry in env.get("duplicate_refs", [])]
    first = min(definitions, default=len(text))
    # The last block is open: its next line may still change all of it.
    line = max((end for _, end in blocks[:-1] if end <= first), default=0)
    return _offset(whole, line)


def carried(text: str) -> str:
    """Give the lines that open again what *text* leaves open: a fence, or a table's head.

    For a block too long to be kept open: after a cut at the end of *text*, what
    follows is shown as `to_html(carried(text) + rest)`. A list needs nothing.
    """
    clean = to_terminal(text)
    tokens = _parser(references=False, inline=False).parse(clean)
    blocks = [token for token in tokens if token.map and token.type in ("fence", "table_open")]
    return _reopened(blocks[-1], clean.removesuffix("\n").split("\n")) if blocks else ""


def _reopened(token: Token, lines: list[str]) -> str:
    first, end = token.map or (0, 0)
    if end < len(lines):
        return ""
    if token.type == "table_open":
        return "".join(f"{line}\n" for line in lines[first : first + 2])
    closed = end - first == token.content.count("\n") + 2
    return "" if closed else f"{token.markup}{token.info}\n"


def _offset(text: str, line: int) -> int:
    """Find where line number *line* of *text* begins."""
    ends = (match.end() for match in _NEWLINE.finditer(text))
    return next((end for number, end in enumerate(ends, 1) if number == line), 0)


def _few_definitions(text: str) -> bool:
    """Whether *text* has so few link definitions that the parser is quick with them."""
    return text.count("]:") <= _MAX_DEFINITIONS


@cache
def _parser(*, references: bool, inline: bool = True) -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    parser.disable(["html_block", "html_inline"])
    if not references:
        parser.disable("reference")
    if not inline:
        parser.core.ruler.enableOnly(["normalize", "block"])
    # Every address passes, so that `_address` alone decides what becomes a link.
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # noqa: ARG005
    parser.inline.ruler.before("escape", "math", _inline_math)
    parser.block.ruler.before(
        "fence", "math", _block_math, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    return parser


# Math

_ENVIRONMENT = (
    r"\\begin\{(?P<name>(?:align|alignat|aligned|alignedat|array|cases|dcases|eqnarray|equation"
    r"|flalign|gather|gathered|multline|rcases|smallmatrix|split|[bBpvV]?matrix)\*?)\}"
)
_DISPLAY = (
    re.compile(r"\$\$(?P<tex>(?:[^$\\]|\\.|\$(?!\$))++)\$\$", re.DOTALL),
    re.compile(r"\\\[(?P<tex>(?:[^\\]|\\[^\[\]])++)\\\]", re.DOTALL),
    re.compile(
        rf"(?P<tex>{_ENVIRONMENT}(?:(?!\\begin\{{(?P=name)\}}).)*?\\end\{{(?P=name)\}})", re.DOTALL
    ),
)
_INLINE = (
    re.compile(r"\\\((?P<tex>(?:[^\\]|\\[^()\[\]])++)\\\)", re.DOTALL),
    re.compile(r"(?<![A-Za-z0-9$])\$(?P<tex>(?:[^$\\`]|\\.)++)\$(?![A-Za-z0-9$])", re.DOTALL),
)
_OPENER = re.compile(rf"\$\$|\\\[|{_ENVIRONMENT}")
_BLOCK_START = re.compile(r"(?:[-+*]|\d{1,9}[.)])(?:\s|$)|#{1,6}\s|```|~~~|>")
_NUMBERS = re.compile(r"[\d\s,;–-]*")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_LABEL = re.compile(r"\\label\s*\{[^{}\\]*\}")
# Those that reach beyond the formula: links, attributes, files, and definitions
# that would hold for every other formula of the page.
_UNSAFE = frozenset(
    """
    attr bbox class csname cssId data def definecolor edef endcsname futurelet gdef global
    href htmlClass htmlData htmlId htmlStyle image img includegraphics input let loop
    mathtip mmlToken newcommand newenvironment newtagform providecommand renewcommand
    renewenvironment renewtagform require special style texttip toggle tooltip unicode url
    usetagform write xdef DeclareMathOperator DeclarePairedDelimiter DeclarePairedDelimiters
    DeclarePairedDelimiterX DeclarePairedDelimiterXPP DeclarePairedDelimitersX
    DeclarePairedDelimitersXPP Newextarrow
    """.split()  # noqa: SIM905 - read as words
)


def _inline_math(state: StateInline, silent: bool) -> bool:
    r"""Read `$…$`, `\(…\)`, and display math that stands inside a paragraph."""
    if state.src[state.pos] not in "$\\":
        return False
    for kind, patterns in (("math_display", _DISPLAY), ("math_inline", _INLINE)):
        for pattern in patterns:
            found = pattern.match(state.src, state.pos, state.posMax)
            if found and _is_math(found):
                if not silent:
                    state.push(kind, "", 0).content = found["tex"]
                state.pos = found.end()
                return True
    return False


def _is_math(found: re.Match[str]) -> bool:
    """Tell math from dollars in prose and from escaped brackets."""
    opener, tex = found[0][:2], found["tex"]
    if not tex.strip():
        return False
    if opener == r"\[":
        return not _NUMBERS.fullmatch(tex)
    if opener in ("$$", r"\(", r"\b"):
        return True
    if tex[0].isspace() or tex[-1].isspace():
        return tex[0].isspace() and tex[-1].isspace() and bool(re.search(r"[\\^_]", tex))
    # "$5 a day or 10$" is money; "$2 \text{ m}$" and "$3x$" are math.
    prose = re.match(r"-?\d", tex) and re.search(r"[A-Za-z]{2}", tex)
    return not (prose and not re.search(r"[\\^_={}]", tex))


def _block_math(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Read display math that begins on a line of its own.

    How far the block goes is decided line by line (up to the line that closes it,
    else to a blank line), so a growing text never changes a block that has ended.
    """
    if state.is_code_block(start):
        return False
    line = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    if not (opener := _OPENER.match(line)):
        return False
    closer = _closer(opener)
    closed = closer.search(line, opener.end())
    if closed and line[closed.end() :].strip():
        return False  # math and then words: an ordinary paragraph
    if silent:
        return True
    last = start if closed else _last_math_line(state, start, end, closer)
    _push_math(state, start, last)
    return True


def _closer(opener: re.Match[str]) -> re.Pattern[str]:
    if opener["name"]:
        return re.compile(rf"\\end\{{{re.escape(opener['name'])}\}}")
    return re.compile(r"(?<!\\)\$\$" if opener[0] == "$$" else r"(?<!\\)(?:\\\\)*\\\]")


def _last_math_line(state: StateBlock, start: int, end: int, closer: re.Pattern[str]) -> int:
    for number in range(start + 1, end):
        line = state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]
        outside = state.sCount[number] < state.blkIndent
        if not line.strip() or state.sCount[number] < 0:
            return number - 1
        if closer.search(line):
            return number
        # Models often forget to indent the formula of a list item.
        if outside and _BLOCK_START.match(line):
            return number - 1
    return end - 1


def _push_math(state: StateBlock, start: int, last: int) -> None:
    """Add the lines as one formula, or as a paragraph when they are more or less than one."""
    content = state.getLines(start, last + 1, state.blkIndent, False).strip()
    state.line = last + 1
    found = next((m for pattern in _DISPLAY if (m := pattern.fullmatch(content))), None)
    if found and _is_math(found):
        token = state.push("math_block", "", 0)
        token.content, token.map = found["tex"], [start, state.line]
        return
    token = state.push("paragraph_open", "p", 1)
    token.map = [start, state.line]
    token = state.push("inline", "", 0)
    token.content, token.map, token.children = content, [start, state.line], []
    state.push("paragraph_close", "p", -1)


def _math(tex: str, left: str, right: str, tag: str) -> str:
    if _UNSAFE.intersection(_COMMAND.findall(tex)):
        return _code(tex.strip()) if tag == "div" else f"<code>{html.escape(tex.strip())}</code>"
    # A formula is typeset again and again while an answer grows; MathJax refuses a second label.
    body = html.escape(_LABEL.sub("", tex).strip())
    return f"<{tag}>{left}{body}{right}</{tag}>"


# Tokens to HTML

_PLAIN_TAGS = frozenset(
    {"p", "ul", "li", "blockquote", "table", "thead", "tbody", "tr", "strong", "em", "s"}
    | {f"h{level}" for level in range(1, 7)}
)
_ALIGNMENTS = frozenset(f"text-align:{side}" for side in ("left", "right", "center"))
_TYPESET = re.compile(r"[$\\]+")
_ADDRESS = re.compile(r"https?://[^/\\?#\s]|mailto:[^/\\\s]", re.IGNORECASE)
_UNTYPESET = r'<span class="tex2jax_ignore mathjax_ignore">\g<0></span>'


def _blocks(tokens: Sequence[Token]) -> Iterator[str]:
    """Write block tokens out."""
    for token in tokens:
        if token.hidden:
            # A tight list item has no paragraph of its own, but needs the line break.
            yield "" if token.nesting == 1 else "\n"
        elif token.type == "inline":
            yield from _inlines(token.children or [])
        elif token.type in ("fence", "code_block"):
            yield _code(token.content) + "\n"
        elif token.type == "math_block":
            yield _math(token.content, r"\[", r"\]", "div") + "\n"
        elif token.type == "hr":
            yield "<hr>\n"
        else:
            yield _tag(token)


def _code(text: str) -> str:
    """Write a block of code. No class: some front ends run `mermaid` blocks by their class."""
    # JupyterLab would break a line in the middle of a word.
    pre, code = "overflow-x:auto;white-space:pre", "white-space:pre"
    return f'<pre style="{pre}"><code style="{code}">{html.escape(text)}</code></pre>'


def _tag(token: Token) -> str:
    """Write an opening or closing tag; the text of a tag that is not known is escaped."""
    name = token.tag
    if name in ("ol", "th", "td"):
        attribute = _attribute(token)
    elif name in _PLAIN_TAGS:
        attribute = ""
    else:
        return _text(token.content)
    if token.nesting == -1:
        return f"</{name}>" + ("" if name in ("strong", "em", "s") else "\n")
    return f"<{name}{attribute}>"


def _attribute(token: Token) -> str:
    start, style = token.attrGet("start"), token.attrGet("style")
    if token.tag == "ol" and isinstance(start, int):
        return f' start="{start}"'
    return f' style="{style}"' if style in _ALIGNMENTS else ""


def _inlines(tokens: Sequence[Token]) -> Iterator[str]:
    """Write the tokens of a paragraph, a heading or a table cell out."""
    close = ""
    for position, token in enumerate(tokens):
        if token.type == "link_open":
            label = "" if token.info == "auto" else _plain(tokens[position + 1 : position + 2])
            before, close = _link(
                str(token.attrGet("href") or ""), label, auto=token.info == "auto"
            )
            yield before
        elif token.type == "link_close":
            yield close
            close = ""
        elif token.type == "image":
            yield _image(token, linked=bool(close))
        else:
            yield _inline(token)


def _inline(token: Token) -> str:
    writers: dict[str, Callable[[str], str]] = {
        "text": _text,
        "code_inline": lambda code: f"<code>{html.escape(code)}</code>",
        "math_inline": lambda tex: _math(tex, r"\(", r"\)", "span"),
        "math_display": lambda tex: _math(tex, r"\[", r"\]", "span"),
        "softbreak": lambda _: "\n",
        "hardbreak": lambda _: "<br>\n",
    }
    writer = writers.get(token.type)
    return writer(token.content) if writer else _tag(token)


def _text(text: str) -> str:
    """Escape *text*, and keep MathJax from taking a dollar or a backslash in it for math."""
    return _TYPESET.sub(_UNTYPESET, html.escape(text))


def _link(address: str, label: str, *, auto: bool) -> tuple[str, str]:
    """Give what stands before and after the text of a link.

    An address that is not of the web or of mail is shown and cannot be followed:
    in JupyterLab a relative link opens files, and others run commands.
    """
    if _ADDRESS.match(address):
        href = html.escape(address)
        return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">', "</a>"
    if auto or label == address:
        return "", ""
    shown = address if len(address) <= _MAX_ADDRESS else address[: _MAX_ADDRESS - 1] + "…"
    return "", f" ({_text(shown)})" if shown else ""


def _image(token: Token, *, linked: bool) -> str:
    """Write an image as a link to it, so that nothing is fetched unasked."""
    address = str(token.attrGet("src") or "")
    label = " ".join(("image:", _plain(token.children or []).strip())).removesuffix(": ")
    before, after = ("", "") if linked else _link(address, label, auto=False)
    return f"{before}{_text(label)}{after}"


def _plain(tokens: Sequence[Token]) -> str:
    """Give the bare text of inline tokens."""
    return "".join(_plain(token.children or []) or token.content for token in tokens)
