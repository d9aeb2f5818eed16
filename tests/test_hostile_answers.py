"""Whatever a model, a relay or a server writes, the page runs and fetches nothing of it.

`test_markdown.py` and `test_render.py` read the HTML; here a browser does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from deepseek_magic import elements, markdown, render, tables
from deepseek_magic.ledger import Pending
from deepseek_magic.sandbox import Reply
from deepseek_magic.wire import Answer, Balance, BalanceInfo, CostRange

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from harness.browser import NotebookPage
    from harness.lab import Lab

pytestmark = pytest.mark.browser

HOST = "http://192.0.2.1"
IMAGE = f"<img src={HOST}/i onerror=window.ran=1>"
PARTS = (
    "<script>window.ran = 2</script>",
    f"<IMG SRC='{HOST}/1' onerror='window.ran = 3'>",
    "<svg/onload=window.ran=4><animate onbegin=window.ran=5 attributeName=x dur=1s></svg>",
    "<iframe srcdoc='<script>parent.ran=6</script>'></iframe>",
    "[a](javascript:window.ran=7) [b](&#106;avascript:window.ran=8) [c](java\tscript:window.ran=9)",
    "[d](data:text/html,<script>top.ran=10</script>) [e](command:run) [f](vbscript:x) [g](//x.y/z)",
    '[h](http://ok.example/"onmouseover="window.ran=11) [i]( "x\'onfocus=window.ran=12")',
    "<javascript:window.ran=13> <http://ok.example/'><img/src=x/onerror=window.ran=14>>",
    f"![j]({HOST}/leak.png) ![k](data:image/svg+xml,<svg/onload=top.ran=15>) ![l][m]",
    f"[m]: {HOST}/leak.gif '<b onclick=window.ran=16>'",
    '<a href="#" data-commandlinker-command="notebook:run-all-cells">run</a>',
    f"<style>@import url({HOST}/leak.css); * {{ background: url({HOST}/leak) }}</style>",
    f"<link rel=stylesheet href={HOST}/l><base href={HOST}><meta http-equiv=refresh content=0>",
    "```mermaid\ngraph TD; A[\"<img src=x onerror='window.ran=17'>\"]\n```",
    '```html" onmouseover="window.ran=18\n</code></pre><script>window.ran=19</script>\n```',
    f"$\\href{{javascript:window.ran=20}}{{x}}$ $\\style{{background:url({HOST}/y)}}{{y}}$",
    f"$$\\unicode{{x3c}}\\includegraphics{{{HOST}/z}}</script><img/src=x/onerror=window.ran=21>$$",
    "\\(\\require{html}\\class{x}{y}\\def\\x{\\href{javascript:window.ran=22}{z}}\\x\\)",
    "| <img src=x onerror=window.ran=23> | b |\n| --- | --- |\n| \u202e\u2066gpj.exe | `</code>` |",
    "<details open ontoggle=window.ran=24><summary>s</summary></details><input onfocus=x>",
    "<!--><img src=x onerror=window.ran=25>--><![CDATA[<img src=x onerror=window.ran=26>]]>",
)
HOSTILE = "\n\n".join(PARTS) + "\n\nThe end of it.\n"

GUARD_OF_A_SHEET = r"""() => {
    const tags = new Set(('A B BLOCKQUOTE BR BUTTON CODE DETAILS DIV EM H1 H2 H3 H4 H5 H6 HR I LI'
        + ' LABEL OL P PRE S SPAN STRONG SUMMARY TABLE TBODY TD TH THEAD TR UL').split(' '));
    const names = new Set('class style href target rel start open data-alive data-dead'.split(' '));
    const shapes = new Set('svg polyline rect'.split(' '));
    const strokes = new Set(('width height viewBox role aria-label points fill stroke stroke-width'
        + ' stroke-linejoin preserveAspectRatio style x y opacity fill-opacity'
        + ' stroke-opacity vector-effect').split(' '));
    // Our own drawing of the spending, which has no words but its label.
    const drawn = node => shapes.has(node.tagName) && node.textContent === ''
        && node.closest('svg').getAttribute('aria-label').startsWith('Spent ')
        && [...node.attributes].every(({name, value}) =>
            strokes.has(name) && !/url|expression|import/i.test(value));
    const wrong = window.wrong = [];
    const typeset = node => node.closest('mjx-container') !== null;
    const check = node => {
        const widget = node.closest('.jupyter-widgets') && !node.closest('.widget-html-content');
        const own = node.tagName === 'STYLE'
            && /^\.deepseek-magic-[0-9a-f]+ { display: none }$/.test(node.textContent);
        // The one sheet of ours, to the letter.
        if (node.tagName === 'LINK' && node.getAttribute('href') === SHEET) return;
        if (node.closest('svg') && drawn(node)) return;
        let fault = !own && !tags.has(node.tagName) && !typeset(node);
        for (const {name, value} of node.attributes) {
            if (/^on/i.test(name) || /commandlinker/i.test(name)) fault = true;
            if (name === 'href' && !/^(https?:\/\/|mailto:)/i.test(value)) fault = true;
            if (name === 'style' && /url|expression|import/i.test(value)) fault = true;
            if (name === 'class' && /mermaid|language-/i.test(value)) fault = true;
            if (!names.has(name) && !typeset(node) && !widget) fault = true;
        }
        if (fault) wrong.push(node.outerHTML.slice(0, 300));
    };
    window.checkAll = () => document.querySelectorAll(
        '.jp-RenderedHTML *, .widget-html-content *, .jp-RenderedText *, .hostile *'
    ).forEach(check);
    new MutationObserver(window.checkAll).observe(
        document.body, {childList: true, subtree: true, attributes: true}
    );
    window.checkAll();
}"""
GUARD = GUARD_OF_A_SHEET.replace("SHEET", json.dumps(elements.SHEET))


def trouble(page: NotebookPage) -> dict[str, Any]:
    """Give what is wrong on the page: what ran, and elements or attributes that are not ours."""
    page.page.evaluate("() => window.checkAll()")
    found = page.page.evaluate("() => ({ran: window.ran ?? null, wrong: window.wrong})")
    return {name: value for name, value in found.items() if value}


def shown_on_the_way() -> Iterator[str]:
    """Give the HTML of all that an answer looks like while it arrives and is cut into displays."""
    for end in range(len(HOSTILE)):
        yield markdown.to_html(HOSTILE[:end])
        yield markdown.to_html(HOSTILE[end:])
    for end in range(0, len(HOSTILE), 7):
        yield markdown.to_html(markdown.carried(HOSTILE[:end]) + HOSTILE[end:])
        yield render.thinking_shown(HOSTILE[:end], 1.0).html


def shown_besides() -> Iterator[str]:
    """Give the HTML of everything else that says what others have written."""
    now = datetime.now(UTC)
    balance = Balance(True, {text: BalanceInfo(text, Decimal(1)) for text in PARTS}, now)
    answer = Answer(text=HOSTILE, reasoning=HOSTILE, model=HOSTILE, finish_reason=HOSTILE)
    yield render.answer_shown(answer, render.quiet_line(answer, None), thinking=True).html
    for text in PARTS:
        notice = render.Notice(
            what=text,
            at=now,
            balance=balance,
            likely_cost=CostRange(Decimal(1), Decimal(2)),
            currency=text,
            kept=text,
            top_up_url=text,
            steps=(text,),
        )
        yield render.notice_shown(notice).html
        facts = render.BalanceFacts(
            balance, "low", {text: Decimal(1)}, now, f"{HOST}/{text}", problem=text, waiting=(text,)
        )
        yield render.balance_shown(facts).html
        yield tables.table_shown((text, "b"), [(text, text)], note=text).html
        row = Pending(1, now, text, text, f"%%deepseek {text}\n{text}", asks=True)
        yield tables.pending_shown([row], now, here=None).html
        yield render.status_html(text, (text,), text)
        yield render.waiting_shown(text).html


def test_every_beginning_and_end_of_a_hostile_text(page: NotebookPage) -> None:
    """Cut at any character, nothing of a hostile text runs, is fetched, or makes an element."""
    page.page.goto("about:blank")
    page.page.set_content("<main class=hostile></main>")
    page.page.evaluate(GUARD)
    everything = [*shown_on_the_way(), *shown_besides()]

    for start in range(0, len(everything), 500):
        page.page.evaluate(
            """parts => {
                const place = document.querySelector('main');
                for (const part of parts) {
                    place.innerHTML = part;
                    window.checkAll();
                }
            }""",
            everything[start : start + 500],
        )
    page.page.wait_for_timeout(300)

    assert trouble(page) == {}
    assert page.outside == set()


def test_the_guard_sees_what_it_should(page: NotebookPage) -> None:
    """The check above can fail: text that nobody made harmless runs and is reported."""
    page.page.goto("about:blank")
    page.page.set_content("<main class=hostile></main>")
    page.page.evaluate(GUARD)

    page.page.evaluate(
        "text => { document.querySelector('main').innerHTML = text }",
        f"<p onclick='x'>a</p>{IMAGE}<a href='javascript:x'>b</a>",
    )
    page.page.wait_for_timeout(300)

    found = trouble(page)
    assert found["ran"] == 1
    assert {part[:2] for part in found["wrong"]} == {"<p", "<i", "<a"}
    assert page.outside == {f"{HOST}/i"}
    page.expected.update(page.outside)


def test_hostile_senders_in_a_notebook(
    page: NotebookPage,
    lab: Lab,
    api: Sandbox,
    of_this_test: Callable[..., dict[str, str]],
    tmp_path: Path,
) -> None:
    """Answers, errors, models and balances do no harm: live, loaded anew, or as a web page."""
    sources = [
        "%load_ext deepseek_magic",
        "%deepseek balance",
        "%%deepseek -t low -o answer\nFirst?",
        "%%deepseek -t off\nSecond?",
        "%%deepseek -t off\nThird?",
        "answer",
        "%deepseek models",
        "%deepseek usage",
        "%deepseek balance",
    ]
    error = {"error": {"message": HOSTILE, "type": IMAGE, "code": IMAGE}}
    account = of_this_test(DEEPSEEK_API_KEY=api.api_key, DEEPSEEK_BASE_URL=api.base_url)
    name = lab.write("hostile.ipynb", sources, account)
    page.open(name)
    page.page.evaluate(GUARD)
    api.change(speed=600, models=[{"id": IMAGE, "object": "model", "owned_by": HOSTILE}])
    api.script(
        Reply(HOSTILE, reasoning=HOSTILE),
        Reply(status=400, body=error),
        Reply("Half an answer", body=error, after=3, then="error"),
    )

    for index in range(len(sources) - 1):
        page.run_cell(index)
    api.script(Reply(body=hostile_balance()), path="/user/balance", forever=True)
    page.run_cell(len(sources) - 1)
    page.button(1, "Refresh").click()
    page.wait_text(1, "unknown")  # a name that is no currency is not taken
    live = trouble(page)
    page.save()
    page.reload()
    page.page.evaluate(GUARD)
    anew = trouble(page)

    assert "The end of it." in page.text(2)
    assert "The end of it." in page.text(5)
    assert "<img" in page.text(6)
    assert (live, anew) == ({}, {})
    assert page.outside == set()
    exported = export(lab, name, tmp_path)
    page.page.goto(exported.as_uri())
    page.page.evaluate(GUARD)
    page.page.wait_for_timeout(300)
    assert "The end of it." in page.page.inner_text("body")
    assert page.page.locator(".jp-RenderedHTML *").count() > 200
    assert trouble(page) == {}
    page.expected.update(url for url in page.outside if (urlsplit(url).hostname or "") in SERVED_BY)


SERVED_BY = {"cdnjs.cloudflare.com", "cdn.jsdelivr.net", "unpkg.com"}
"""Where the template of nbconvert gets MathJax, RequireJS and Mermaid from."""


def hostile_balance() -> dict[str, Any]:
    """Give the body of a balance in which every text is hostile."""
    amounts = ("total_balance", "granted_balance", "topped_up_balance")
    info = {"currency": IMAGE, **dict.fromkeys(amounts, "1.00")}
    return {"is_available": True, "balance_infos": [info]}


def export(lab: Lab, name: str, folder: Path) -> Path:
    """Make a web page of the saved notebook, as `jupyter nbconvert --to html` does."""
    from nbconvert import HTMLExporter

    exporter: Any = HTMLExporter
    body, _ = exporter().from_notebook_node(lab.read(name))
    path = folder / "exported.html"
    path.write_text(body, encoding="utf-8")
    return path
