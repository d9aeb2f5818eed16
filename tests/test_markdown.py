"""Model text becomes HTML that shows what was meant and runs nothing."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic.markdown import carried, settled, to_html, to_terminal

if TYPE_CHECKING:
    from playwright.sync_api import Dialog

    from harness.browser import NotebookPage
    from harness.lab import Lab

LINK = {"target": "_blank", "rel": "noopener noreferrer nofollow"}
PRE = '<pre style="overflow-x:auto;white-space:pre"><code style="white-space:pre">'
STYLES = {
    "text-align:left",
    "text-align:right",
    "text-align:center",
    "overflow-x:auto;white-space:pre",
    "white-space:pre",
    "white-space:pre-wrap",
}
TAGS = {"a", "blockquote", "br", "code", "div", "em", "hr", "li", "ol", "p", "pre", "s", "span"}
TAGS |= {"strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}
TAGS |= {"h1", "h2", "h3", "h4", "h5", "h6"}


class Page(HTMLParser):
    """What a browser would make of the HTML: tags, addresses, code and text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.typeset = ""
        self.shown = ""
        self._open: list[tuple[str, bool]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Check one tag against all that is allowed."""
        assert tag in TAGS, tag
        given_attrs = dict(attrs)
        href = given_attrs.pop("href", None)
        if href is not None:
            assert tag == "a"
            assert re.match(r"https?://[^/]|mailto:[^/]", href, re.IGNORECASE), href
            assert {name: given_attrs.pop(name) for name in LINK} == LINK
            self.addresses.append(href)
        assert given_attrs.pop("class", "") in ("", "tex2jax_ignore mathjax_ignore")
        assert given_attrs.pop("style", None) in (None, *STYLES)
        assert (given_attrs.pop("start", None) or "1").isdecimal()
        assert not given_attrs, given_attrs
        self.tags.append(tag)
        ignored = tag in ("code", "pre") or any(name == "class" for name, _ in attrs)
        if tag not in ("br", "hr"):
            self._open.append((tag, ignored))

    def handle_endtag(self, tag: str) -> None:
        """Check that tags are closed in their order."""
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        """Keep the text, and apart from it what MathJax looks at."""
        self.shown += data
        ignored = any(ignored for _, ignored in self._open)
        self.typeset += "\0" if ignored else data

    def handle_comment(self, data: str) -> None:
        """Refuse comments."""
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        """Refuse declarations."""
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        """Refuse processing instructions."""
        raise AssertionError(data)

    def unknown_decl(self, data: str) -> None:
        """Refuse CDATA and the like."""
        raise AssertionError(data)

    @property
    def math(self) -> list[str]:
        """The formulas MathJax finds with the settings of JupyterLab."""
        pattern = r"\$\$.*?\$\$|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{.*?\\end\{[^}]*\}"
        return re.findall(pattern, self.typeset, re.DOTALL)


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<div class=mermaid>graph TD</div>\n\n<style>*{display:none}</style>",
    "<a data-commandlinker-command='x' href='javascript:1'>y</a>",
    "<!-- x --><?php x ?><![CDATA[x]]><!DOCTYPE x>",
    "[x](javascript:alert(1)) [x](JaVaScRiPt:alert(1)) [x](java&#115;cript:1) [x](\\javascript:1)",
    "[x](data:text/html;base64,PHN2Zz4=) ![x](data:image/png;base64,AAAA)",
    "[x](command:x) [x](vscode:x) [x](file:///etc/passwd) [x](//evil.example) [x](/lab?reset)",
    "[x](lab/tree/a.ipynb) [x](#top) [x](http:evil) [x](https:/evil) [x](http:\\\\evil) [x]()",
    "<javascript:alert(1)> <data:text/html,x> <http:x> <vscode://x/y> <a@b.example>",
    "![x](https://evil.example/x.png 'onload=alert(1)') [![x](https://e.example)](javascript:1)",
    '[x](https://e.example/"onmouseover="alert(1)) [x](https://e.example "\\"><script>")',
    "[x][r] [r]\n\n[r]: javascript:alert(1) 'x'\n\n[s]: <https://e.example/ onclick=1>\n\n[s]",
    '```mermaid"><script>alert(1)</script>\ngraph TD\n```\n\n~~~python onload=x\n</code></pre><b>',
    "`<b>` ``a`<i>`` *<u>* **</p>** ~~</div>~~",
    "| <b> | `</td>` |\n|:-:|--:|\n| <script> | [x](javascript:1) |\n",
    "$</span><script>alert(1)</script>$ \\(<b>\\) $$</div><i>$$\n\n\\[\n<u>\n\\]",
    "$\\href{javascript:alert(1)}{x}$ \\(\\style{position:fixed}{x}\\)\n\n$$\\require{html}$$",
    "&lt;script&gt; &#60;script&#62; &amp;lt; &#0; &#xD800; &quot;&apos;",
    "> <b>\n> - <i>\n>   ```\n>   <u>\n\n1. <b>\n9999999999. x\n123456789. <p>",
    "\x00\x1b[31m\x9b31m\ud800 \u202e<b>\u2066",
    "# <b id=x> {#id .class onclick=x}\n\nx {.mermaid}\n===\n",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_every_prefix_of_an_attack_is_safe(text: str) -> None:
    """However far hostile text has arrived, only known tags, attributes and schemes are made."""
    for end in range(len(text) + 1):
        Page(to_html(text[:end]))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([*ATTACKS, *"<>[]()!`*_$\\|~#&\"' \n-1.:", "\n\n"]), max_size=8))
def test_mixed_attacks_are_safe(pieces: list[str]) -> None:
    """Attacks put next to each other, in any order, are no more than each alone."""
    Page(to_html("".join(pieces)))


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_can_be_published(text: str) -> None:
    """HTML and terminal text can be sent as UTF-8 JSON and hold no control character."""
    for shown in (to_html(text), to_terminal(text)):
        json.dumps(shown, ensure_ascii=False).encode()
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc\r\nd\re", "a\tb\nc\nd\ne"),
        ("\x1b[2Jx\x07\x7f", "␛[2Jx␇␡"),
        ("\x9b31mx", "�31mx"),
        ("a\u202eb\u2066c", "abc"),
        ("\ud83d\ude00 \ud83d", "😀 �"),
        ("naïve 中文 😀 \u200d", "naïve 中文 😀 \u200d"),
    ],
)
def test_terminal_text(text: str, shown: str) -> None:
    """Control characters are seen and do nothing; everything else is as it was."""
    assert to_terminal(text) == shown


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("# A *b*", "<h1>A <em>b</em></h1>\n"),
        ("**a** ~~b~~ `c<`", "<p><strong>a</strong> <s>b</s> <code>c&lt;</code></p>\n"),
        ("a  \nb\nc", "<p>a<br>\nb\nc</p>\n"),
        ("- a\n- b", "<ul><li>a\n</li>\n<li>b\n</li>\n</ul>\n"),
        ("3. a", '<ol start="3"><li>a\n</li>\n</ol>\n'),
        ("> a", "<blockquote><p>a</p>\n</blockquote>\n"),
        ("---", "<hr>\n"),
        (
            "```python\na < b\n```",
            f"{PRE}a &lt; b\n</code></pre>\n",
        ),
        (
            "|a|\n|-:|\n|1|",
            (
                '<table><thead><tr><th style="text-align:right">a</th>\n</tr>\n</thead>\n'
                '<tbody><tr><td style="text-align:right">1</td>\n</tr>\n</tbody>\n</table>\n'
            ),
        ),
    ],
)
def test_markdown(text: str, source: str) -> None:
    """Headings, emphasis, lists, tables, quotations and code are shown as such."""
    assert to_html(text) == source


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("[a](https://e.example/b?c=d&e)", "https://e.example/b?c=d&e", "a"),
        ("<https://e.example>", "https://e.example", "https://e.example"),
        ("<a@b.example>", "mailto:a@b.example", "a@b.example"),
        ("[a]\n\n[a]: HTTP://e.example", "HTTP://e.example", "a"),
        ("![a *b*](https://e.example/p.png)", "https://e.example/p.png", "image: a b"),
        ("![](https://e.example/p.png)", "https://e.example/p.png", "image"),
        ("[![a](https://e.example/p)](https://f.example)", "https://f.example", "image: a"),
    ],
)
def test_links_of_the_web_can_be_followed(text: str, address: str, shown: str) -> None:
    """Web and mail addresses are links, and an image is a link to it."""
    page = Page(to_html(text))

    assert page.addresses == [address]
    assert page.shown.strip() == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a](javascript:b)", "a (javascript:b)"),
        ("[a](notes/b.ipynb)", "a (notes/b.ipynb)"),
        ("[a](#b)", "a (#b)"),
        ("<vscode:b>", "vscode:b"),
        ("![a](b.png)", "image: a (b.png)"),
        ("[a](data:,$x$)", "a (data:,$x$)"),
        ("[a](<>)", "a"),
    ],
)
def test_other_addresses_are_only_shown(text: str, shown: str) -> None:
    """Every other address stands in the text and cannot be clicked."""
    page = Page(to_html(text))

    assert page.addresses == []
    assert page.shown.strip() == shown


def test_a_long_address_is_cut() -> None:
    """An image that is written into its address does not fill the page."""
    page = Page(to_html(f"![plot](data:image/png;base64,{'A' * 9000})"))

    assert len(page.shown) < 250


@pytest.mark.parametrize(
    ("text", "math"),
    [
        ("so $x<y$.", [r"\(x<y\)"]),
        ("$ \\alpha $ and $3x$ and $x$-axis", [r"\(\alpha\)", r"\(3x\)", r"\(x\)"]),
        ("其中$x$是", [r"\(x\)"]),
        (r"\(a_1\) and \( \frac{1}{2} \)", [r"\(a_1\)", r"\(\frac{1}{2}\)"]),
        ("it is $$x*y*z$$ here", [r"\[x*y*z\]"]),
        (r"it is \[x\] here", [r"\[x\]"]),
        ("$$\nx\n=\ny\n$$", ["\\[x\n=\ny\\]"]),
        ("So:\n\\[\na \\\\[2pt]\n- b\n\\]\nwhere", ["\\[a \\\\[2pt]\n- b\\]"]),
        ("\\[ x\n\\] and \\(y\\)", ["\\[x\\]", r"\(y\)"]),
        (
            "\\begin{align*}\na &= b\n\\end{align*}",
            ["\\[\\begin{align*}\na &= b\n\\end{align*}\\]"],
        ),
        ("1. a\n   \\[\n   x\n   \\]\n2. b", [r"\[x\]"]),
        ("- a\n  $$\nx\n$$\n- b", [r"\[x\]"]),
        ("> $$\n> x\n> $$", [r"\[x\]"]),
        ("| a |\n|---|\n| $x$ |", [r"\(x\)"]),
        (r"$$x \label{eq:1}$$", [r"\[x\]"]),
        (r"$\text{costs \$5}$", [r"\(\text{costs \$5}\)"]),
    ],
)
def test_math_is_left_to_mathjax(text: str, math: list[str]) -> None:
    r"""However the model writes a formula, it stands between \(…\) or \[…\], untouched."""
    assert Page(to_html(text)).math == math


@pytest.mark.parametrize(
    "text",
    [
        "costs $5 to $6",
        "from $5 or 10$, 20$ a day",
        "US$5, CA$6 and 7$",
        "$HOME/$USER and ${A}$B",
        "$5 a day or 6$ a week",
        "`$x$` and `\\(x\\)`",
        "```\n$$x$$\n\\[x\\]\n```",
        "    \\begin{align}x\\end{align}",
        r"\$5 and 6\$",
        r"\\(x\\) and \\[x\\]",
        "&#36;x&#36; &bsol;(x&bsol;)",
        r"as shown \[1, 2\] and \[3\]",
        "$$\nnever closed\n\nnext",
        r"\begin{tabular}x\end{tabular} \begin{document}",
        r"\ref{x} \eqref{y}",
        "[a](b$c$d) and ![$](e$f)",
        "$ $ and $$ $$ and \\(\\)",
    ],
)
def test_prose_and_code_are_not_typeset(text: str) -> None:
    """Prices, shell variables, escaped brackets and code stay what they are."""
    page = Page(to_html(text))

    assert page.math == []
    assert not re.search(r"\\(?:begin|ref|eqref|\(|\[|\$|\\)", page.typeset)


@pytest.mark.parametrize(
    "latex",
    [
        r"\href{javascript:x}{y}",
        r"\url{x}",
        r"\style{x}{y}",
        r"\class{mermaid}{y}",
        r"\cssId{x}{y}",
        r"\htmlStyle{x}{y}",
        r"\require{html}",
        r"\unicode{65}",
        r"\includegraphics{x}",
        r"\def\x{y}",
        r"\gdef\x{y}",
        r"\let\frac\x",
        r"\newcommand{\x}{y}",
        r"\renewcommand\frac{y}",
        r"\bbox[border:1px]{x}",
        r"\mmlToken{mi}[href=x]{y}",
        r"\toggle{x}{y}\endtoggle",
        r"\csname href\endcsname",
        r"\DeclareMathOperator{\x}{y}",
        r"x \\\\\href{x}{y}",
    ],
)
@pytest.mark.parametrize("form", [r"$%s$", r"$$%s$$", r"\(%s\)", "\\[\n%s\n\\]", r"a $$%s$$"])
def test_latex_that_reaches_out_is_code(form: str, latex: str) -> None:
    """LaTeX that would touch the page or other formulas is shown and not typeset."""
    page = Page(to_html(form % latex))

    assert page.math == []
    assert "code" in page.tags
    assert latex in page.shown


def test_an_open_formula_keeps_the_list() -> None:
    """Two dollars at the start of a list item do not swallow the items that follow."""
    assert Page(to_html("- $$ is the process\n- $! too\n- third")).tags.count("li") == 3


def test_harmless_names_that_begin_alike_are_typeset() -> None:
    r"""\defeq is not \def, and a line break before "def" is not \def."""
    assert Page(to_html(r"$a \default \\def$")).math == [r"\(a \default \\def\)"]


@pytest.mark.parametrize(
    "char", [">", "[", "*", "> ", "- ", "1. ", "![", "_a*", "`a", "$", "\\[\n"]
)
def test_deep_nesting_loses_nothing(char: str) -> None:
    """Ten thousand open brackets, quotes or stars end, and the text is still there."""
    page = Page(to_html(char * 10_000 + "the end"))

    assert "the end" in page.shown


@pytest.mark.parametrize(
    "text",
    [
        "word *emph* `code` $x$ and so on.\n\n" * 28_000,
        "a " * 500_000,
        "```\n" + "x\n" * 500_000,
        "|a|b|\n|-|-|\n" + "|x|y|\n" * 20_000,
        "|" * 1_000_000,
        "[]: a\n" * 100_000,
        "\\begin{align}\n" * 50_000,
    ],
)
def test_a_megabyte_is_rendered(text: str) -> None:
    """Very long answers are rendered, and looking for finished blocks ends too."""
    assert to_html(text)
    assert settled(text) <= len(text)


BLOCKS = [
    "# Title\n",
    "A paragraph\nof two lines.\n",
    "Title\n===\n",
    "a | b\n--|--\n1 | 2\n",
    "text\na | b\n--|--\n",
    "- one\n- two\n\n  more\n",
    "- one\n\n\n- two\n",
    "1. one\n\n2. two\n",
    "* * *\n",
    "- - - foo\n",
    "```python\nx = 1\n\n# no heading\n```\n",
    "~~~\n```\n~~~\n",
    "- a\n\n  ```\n  b\n\n  ```\n",
    "> quote\nlazy\n",
    "> - a\n>\n> b\n",
    "$$\nx\n=\n- y\n$$\n",
    "\\[\nx\n\\] where\ny\n",
    "$$ never\n- closed\n",
    "\\begin{align}\na\n\\end{align}\n",
    "- a\n  \\[\nx\n\\]\n- b\n",
    "    code\n\n    more\n",
    "<div>\n\nx\n</div>\n",
    "[a]: https://e.example 'title\nof two'\n",
    "[a]: https://e.example\n'not a title\n",
    "see [a].\n",
    "-\n",
    "1.\n",
    "**bold**",
    "---",
    "```",
    "|",
    "=",
    "  ",
    "\t",
    "\r",
    "\r\n",
    "\n",
    "\n\n",
]


def streamed(text: str, cuts: list[int]) -> str:
    """Show *text* as it grows up to each of *cuts*, finished blocks once, the rest at the end."""
    shown, start = "", 0
    for end in sorted(cuts):
        done = settled(text[start:end]) if end > start else 0
        shown, start = shown + to_html(text[start : start + done]), start + done
    return shown + to_html(text[start:])


def defined_later(text: str) -> bool:
    """Whether *text* uses a link above the place where it is defined."""
    return "[a]:" in text and "[a]" in text[: text.rindex("[a]:")]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(BLOCKS), max_size=9), st.data())
def test_settled_blocks_never_change(blocks: list[str], data: st.DataObject) -> None:
    """An answer shown block by block looks like the same answer shown at once."""
    text = "".join(blocks)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))

    if not defined_later(text):
        assert streamed(text, cuts) == to_html(text)


@pytest.mark.parametrize("text", ["\n".join(BLOCKS[:17]), "\n\n".join(BLOCKS[:21])])
def test_settled_piece_by_piece(text: str) -> None:
    """The same holds when every character arrives alone."""
    assert streamed(text, list(range(len(text) + 1))) == to_html(text)


@pytest.mark.parametrize(
    ("done", "open_"),
    [
        ("", "one paragraph\n\n"),
        ("one\n", "\ntwo\n"),
        ("one\n", "\ntwo\n\nthr"),
        ("", "- a\n\n- b\n\n"),
        ("- a\n\n", "**b**\n"),
        ("", "```\n# a\n\nb\n"),
        ("```\na\n```\n", "b\n"),
        ("", "- ```\n  a\n\n  b\n"),
        ("", "> a\n>\n> b\n"),
        ("", "| a |\n|---|\n| b |\n"),
        ("a\n", "\n$$\nx\n"),
        ("a\n", "$$\nx\n"),
        ("", "Title\n"),
        ("Title\n---\n", "a\n"),
        ("a\n", "\n[r]: https://e.example\n\nb [r]\n\nc\n"),
    ],
)
def test_settled(done: str, open_: str) -> None:
    """All blocks but the last are finished, counted in whole lines."""
    assert settled(done + open_) == len(done)


@pytest.mark.parametrize(
    ("text", "opener"),
    [
        ("```py\na\n", "```py\n"),
        ("```py\na\n```\n", ""),
        ("a\n\n~~~~\n\n\n", "~~~~\n"),
        ("- a\n\n  ```\n  b\n", "```\n"),
        ("1. a\n\n   ```\n   b\n   ```\n2. c\n", ""),
        ("| a |\n|--:|\n| b |\n", "| a |\n|--:|\n"),
        ("| a |\n|--:|\n| b |\n\nc\n", ""),
        ("- a\n- b\n", ""),
        ("a\n", ""),
        ("", ""),
    ],
)
def test_carried(text: str, opener: str) -> None:
    """What is cut in the middle of a fence or a table goes on as one."""
    assert carried(text) == opener


def test_a_long_answer_settles() -> None:
    """Of an answer of many paragraphs only the last one stays open."""
    text = "word word word\n\n" * 1000

    assert len(text) - settled(text) < 40


def test_code_comes_out_as_it_went_in() -> None:
    """What stands in a fence is what the reader copies, character by character."""
    code = "if a < b && c:\n\tprint(\"$x$ \\\\ '&amp;' <b>\")\n"

    source = to_html(f"```\n{code}```")

    assert html.unescape(re.sub(r"<[^>]*>", "", source)) == code + "\n"


SHOW = """
from IPython.display import HTML
from deepseek_magic.markdown import to_html
HTML(to_html({text!r}) + "<p>the end</p>")
"""
MIXED = r"""
$x^2$, \(y\), $$z$$ and \[\frac{1}{2}\] cost $5 to $6, \\(no\\), `$code$`, \$a\$, \ref{b}
&#36;c&#36;.

$$
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
$$

\begin{align}
a &< b \\
c &> d
\end{align}

$$\href{javascript:alert(1)}{x}$$
"""


@pytest.mark.browser
@pytest.mark.parametrize("ui", ["lab", "notebook"])
def test_the_page_typesets_math_and_runs_nothing(
    page: NotebookPage,
    lab: Lab,
    of_this_test: Callable[..., dict[str, str]],
    ui: Literal["lab", "notebook"],
) -> None:
    """A real front end typesets the six formulas, and of the attacks nothing comes alive."""
    mixed, attacks = SHOW.format(text=MIXED), SHOW.format(text="\n\n".join(ATTACKS))
    name = lab.write("markdown.ipynb", [mixed, attacks], of_this_test())
    page.open(name, ui)
    alerts: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        alerts.append(dialog.message)
        dialog.dismiss()

    page.page.on("dialog", dismiss)

    page.run_all()
    page.wait_text(1, "the end")
    page.output(0).locator("mjx-container").nth(5).wait_for()

    assert page.output(0).locator("mjx-container").count() == 6
    assert page.output(0).locator("mjx-merror").count() == 0
    assert "cost $5 to $6, \\(no\\), $code$, $a$, \\ref{b} $c$." in " ".join(page.text(0).split())
    assert r"\href{javascript:alert(1)}{x}" in page.text(0)
    live = "script, style, iframe, img, [onerror], [onclick], .mermaid, [class*=language-]"
    assert page.output(1).locator(live).count() == 0
    assert alerts == []
