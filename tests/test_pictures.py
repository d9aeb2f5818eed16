"""The README's pictures, taken anew: `DEEPSEEK_MAGIC_PICTURES=1` writes them where they stand."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from deepseek_magic.sandbox import Sandbox
    from harness.browser import NotebookPage
    from harness.lab import Lab

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "notebooks" / "pictures"
SHOWN = {
    "balance": (1, ["4.9", "granted 0.00", "Refresh"]),
    "answer": (2, ["Thought for", "deepseek-flash", "CNY left"]),
    "notice": (3, ["balance is empty", "Top up", "Check balance", "Re-run when topped up"]),
}
CELLS = (
    "%load_ext deepseek_magic",
    "%deepseek balance",
    "%%deepseek --think low\nWhy is the sky blue, and why is it red in the evening?",
    "%%deepseek --think low\nWrite a plan for the next quarter in three points.",
    "# the selected cell, whose frame is in no picture",
)


def size(picture: Path) -> tuple[int, int]:
    """Give width and height out of the head of a PNG."""
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    return width, height


@pytest.mark.browser
def test_the_pictures_show_what_the_product_shows(
    page: NotebookPage,
    lab: Lab,
    api: Sandbox,
    of_this_test: Callable[..., dict[str, str]],
    tmp_path: Path,
) -> None:
    """Each picture of the README has the size of one taken now, and the README uses all of them."""
    folder = PICTURES if os.environ.get("DEEPSEEK_MAGIC_PICTURES") else tmp_path
    folder.mkdir(exist_ok=True)
    account = of_this_test(DEEPSEEK_API_KEY=api.api_key, DEEPSEEK_BASE_URL=api.base_url)
    api.balance = Decimal("3.93")
    api.top_up("1.00")
    page.open(lab.write("pictures.ipynb", CELLS, account), width=1280)
    texts = {}
    for cell in range(4):
        if cell == 3:
            texts["balance"] = page.text(1)
            page.screenshot_cell(1, folder / "balance.png")
            api.balance = Decimal(0)
        page.run_cell(cell)
        page.page.wait_for_timeout(500)

    page.cells.nth(4).locator(".cm-content").first.click()
    for name in ("answer", "notice"):
        texts[name] = page.text(SHOWN[name][0])
        page.screenshot_cell(SHOWN[name][0], folder / f"{name}.png")

    readme = (ROOT / "README.md").read_text("utf-8")
    assert set(re.findall(r"\]\(notebooks/pictures/(\w+)\.png\)", readme)) == set(SHOWN)
    for name, (_, words) in SHOWN.items():
        assert all(word in texts[name] for word in words), texts[name]
        assert size(PICTURES / f"{name}.png") == pytest.approx(
            size(folder / f"{name}.png"), rel=0.2
        )
