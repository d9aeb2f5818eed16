"""The page in the browser where the simulated account is topped up, in English or in Chinese.

The sandbox is a program of its own: the page goes by the language that the browser asks
for, and has its words here.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from html import escape
from importlib.resources import files
from string import Template
from types import MappingProxyType
from typing import Literal

Language = Literal["en", "zh"]

AMOUNTS = ("1", "5", "10", "50")
LARGEST = Decimal(1_000_000)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "cache-control": "no-store",
        "content-security-policy": (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
)

WORDS: Mapping[Language, Mapping[str, str]] = MappingProxyType(
    {
        "en": MappingProxyType(
            {
                "title": "Top up &ndash; sandbox, no real money",
                "heading": "Top up the sandbox account",
                "note": "<strong>This is a simulation.</strong> No real money moves, and DeepSeek "
                "is not involved.",
                "balance": "Balance",
                "choose": "Choose an amount",
                "other": "Or another one",
                "amount": "Amount in {currency}",
                "such_as": "A number such as 2.50",
                "top_up": "Top up",
                "paid": "Topped up {amount}. Go back to your notebook and click Re-run cell; what "
                "waits for money runs by itself.",
                "unpaid": "Nothing was topped up. Enter an amount above 0, at most 1000000, such "
                "as 2.50.",
            }
        ),
        "zh": MappingProxyType(
            {
                "title": "充值 &ndash; 沙盒，不涉及真实资金",
                "heading": "为沙盒账户充值",
                "note": "<strong>这是模拟账户。</strong>不涉及真实资金，也与 DeepSeek 无关。",
                "balance": "余额",
                "choose": "选择金额",
                "other": "或输入其他金额",
                "amount": "金额（{currency}）",
                "such_as": "一个数字，例如 2.50",
                "top_up": "充值",
                "paid": "已充值 {amount}。请回到笔记本，点击“重新运行单元格”；"
                "等待充值的单元格会自动运行。",
                "unpaid": "没有充值。请输入大于 0、不超过 1000000 的金额，例如 2.50。",
            }
        ),
    }
)
"""The words of the page; they are HTML, and `{names}` are filled in."""


def language_of(accepted: str) -> Language:
    """Choose the language by the header Accept-Language: what it likes best of the two."""
    shares: dict[str, float] = {}
    for wish in accepted.lower().split(","):
        name, _, share = wish.partition(";q=")
        shares.setdefault(name.strip().split("-")[0], _share(share))
    # Of those that are liked alike it is the first.
    best = max(shares, key=lambda name: shares[name] if name in WORDS else 0.0)
    return "zh" if best == "zh" and shares["zh"] else "en"


def _share(text: str) -> float:
    try:
        return float(text or 1)
    except ValueError:
        return 0.0


def paid_amount(text: str) -> Decimal | None:
    """Read the amount of a payment: above 0, at most a million, no more than two decimals."""
    try:
        amount = Decimal(text.strip())
    except InvalidOperation:
        return None
    usable = amount.is_finite() and 0 < amount <= LARGEST and amount == round(amount, 2)
    return round(amount, 2) if usable else None


def page(
    *,
    balances: Mapping[str, Decimal],
    currency: str,
    token: str,
    language: Language,
    paid: Decimal | None,
    failed: bool,
) -> str:
    """Write the page; *paid* is the last payment, and *failed* that it was none."""
    words = WORDS[language]
    template = files(__package__).joinpath("top_up.html").read_text(encoding="utf-8")
    buttons = "\n".join(
        f'<button name="amount" value="{amount}">{amount} {escape(currency)}</button>'
        for amount in AMOUNTS
    )
    held = " &middot; ".join(f"{shown(amount)} {escape(name)}" for name, amount in balances.items())
    filled = {**words, "amount": words["amount"].format(currency=escape(currency))}
    return Template(template).substitute(
        filled,
        language=language,
        held=held,
        buttons=buttons,
        notice=_notice(words, currency, paid, failed=failed),
        token=escape(token),
    )


def _notice(words: Mapping[str, str], currency: str, paid: Decimal | None, *, failed: bool) -> str:
    """Say what happened to the last payment; nothing without one."""
    if failed:
        return f'<p class="failed" role="alert">{words["unpaid"]}</p>'
    if not paid:
        return ""
    amount = escape(f"{shown(paid)} {currency}")
    return f'<p class="paid" role="status">{words["paid"].format(amount=amount)}</p>'


def shown(amount: Decimal) -> str:
    """Write *amount* with two decimals, or up to four where they say more."""
    plain = f"{amount.quantize(Decimal('0.0001'), ROUND_DOWN).normalize():f}"
    return plain if len(plain.partition(".")[2]) > 2 else f"{amount:.2f}"
