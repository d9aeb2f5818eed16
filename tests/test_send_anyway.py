"""*Send anyway*: one click sends one question against a check, once, in its own place."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deepseek_magic.rerun import ANYWAY, MARK
from deepseek_magic.sandbox import Sandbox
from harness.pages import Page, start

pytestmark = pytest.mark.kernel

HERE: dict[str, Any] = {"cellId": "c1"}
NOTICES = "get_ipython().magics_manager.registry['DeepSeekMagics'].workspace.notices"
BUTTONS = f"{NOTICES}._standing['c1'][0].box.children[0].children"
ASKING = "%%deepseek -t off --budget 0.0000001\nWhy?"


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give an account with 5 CNY, which whatever looks at the environment uses."""
    with Sandbox(balance="5.00", currency="CNY", decimals=6) as api:
        monkeypatch.setenv("DEEPSEEK_API_KEY", api.api_key)
        monkeypatch.setenv("DEEPSEEK_BASE_URL", api.base_url)
        yield api


@pytest.fixture
def page(account: Sandbox, tmp_path: Path) -> Iterator[Page]:
    """Give a page without a browser, whose kernel asks the account."""
    manager = start(tmp_path)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    made = Page(client)
    made.cell("%load_ext deepseek_magic")
    yield made
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def asked(api: Sandbox) -> int:
    """Count the questions that were sent."""
    return sum(request.method == "POST" for request in api.traffic)


def labels(page: Page) -> str:
    return page.value(f"[b.description for b in {BUTTONS}]")


def button(page: Page, label: str) -> str:
    return page.value(f"[b for b in {BUTTONS} if b.description == {label!r}][0].comm.comm_id")


def stamp(page: Page, request: str) -> dict[str, Any]:
    """Give the metadata of the last output that has any of ours."""
    found = [m["content"].get("metadata", {}) for m in page.of(request)]
    stamps = [one["deepseek_magic"] for one in found if "deepseek_magic" in one]
    return dict(stamps[-1])


def test_a_double_click_pays_once(page: Page, account: Sandbox) -> None:
    """It runs the cell in its place, and the check is not asked; a double click sends one."""
    first = page.cell(ASKING, HERE)
    before = labels(page), asked(account)
    comm = button(page, "Send anyway")

    page.click(comm)
    page.click(comm)
    page.until(lambda: page.ended(first, 2))
    page.cell("import time; time.sleep(0.5)")

    assert before == ("['Re-run cell', 'Send anyway', 'Check balance']", 0)
    assert asked(account) == 1
    assert page.inputs(first) == [ASKING, ASKING]
    assert page.errors(first) == ["OverLimit"], "that of the first run alone"
    told = stamp(page, first)
    assert told["ending"] == "done"
    assert told["band"] in {"peak", "off-peak"}
    assert told["cost_range"] is None
    assert told["tokens"]["completion_tokens"] > 0
    assert None not in told["tokens"].values()
    assert page.value(f"{NOTICES}._standing.get('c1', [])") == "[]"


def test_the_permission_is_for_one_run(page: Page, account: Sandbox) -> None:
    """The next run of the cell is checked again, by hand or by the other button."""
    first = page.cell(ASKING, HERE)
    page.click(button(page, "Send anyway"))
    page.until(lambda: page.ended(first, 2))

    by_hand = page.cell(ASKING, HERE)
    page.click(button(page, "Re-run cell"))
    page.until(lambda: page.ended(by_hand, 2))

    assert page.errors(by_hand) == ["OverLimit", "OverLimit"]
    assert asked(account) == 1
    assert "Send anyway" in labels(page)


def test_a_page_that_is_gone_takes_the_permission_with_it(page: Page, account: Sandbox) -> None:
    """Where no page shows the cell nothing is sent; a later click on the other one is checked."""
    first = page.cell(ASKING, HERE)
    page.listens = False
    page.click(button(page, "Send anyway"))
    page.until(lambda: page.value(f"'no longer knows' in {SAID}") == "True")
    page.listens = True
    page.click(button(page, "Re-run cell"))
    page.until(lambda: page.ended(first, 2))

    assert page.errors(first) == ["OverLimit", "OverLimit"]
    assert asked(account) == 0


SAID = f"{NOTICES}._standing['c1'][0].box.children[-1].value"


def test_only_a_re_run_has_the_permission(page: Page, account: Sandbox) -> None:
    """What stands in the metadata of a cell that is run by hand allows nothing."""
    by_hand = page.cell(ASKING, {**HERE, ANYWAY: True})
    by_text = page.cell(ASKING, {**HERE, MARK: "", ANYWAY: True})

    assert page.errors(by_hand) == page.errors(by_text) == ["OverLimit"]
    assert asked(account) == 0


def test_no_button_where_nothing_was_checked(page: Page, account: Sandbox) -> None:
    """A refusal by the API itself cannot be passed over."""
    account.balance = Decimal(0)

    page.cell("%%deepseek -t off\nWhy?", HERE)

    assert "Send anyway" not in labels(page)
    assert "Re-run when topped up" in labels(page)


def test_too_little_money_can_be_waited_for(page: Page, account: Sandbox) -> None:
    """A check that finds the balance too small offers both: to wait, and to send anyway."""
    for _ in range(3):
        page.cell("%%deepseek -t off --max-tokens 2000\nWhy?")
    account.balance = Decimal("0.0001")
    page.cell("%deepseek balance")
    sent = asked(account)

    page.cell("%%deepseek -t off --max-tokens 2000\nWhy?", HERE)

    assert asked(account) == sent
    assert labels(page) == (
        "['Re-run cell', 'Re-run when topped up', 'Send anyway', 'Check balance']"
    )
