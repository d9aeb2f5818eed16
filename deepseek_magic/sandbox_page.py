"""The page in the browser where the simulated account is topped up."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from html import escape
from importlib.resources import files
from string import Template
from types import MappingProxyType

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


def paid_amount(text: str) -> Decimal | None:
    """Read the amount of a payment: above 0, at most a million, no more than two decimals."""
    try:
        amount = Decimal(text.strip())
    except InvalidOperation:
        return None
    usable = amount.is_finite() and 0 < amount <= LARGEST and amount == round(amount, 2)
    return round(amount, 2) if usable else None


def page(
    *, balances: Mapping[str, Decimal], currency: str, token: str, notice: str, failed: bool
) -> str:
    """Write the page; *notice* is what happened to the last payment, or empty."""
    template = files(__package__).joinpath("top_up.html").read_text(encoding="utf-8")
    buttons = "\n".join(
        f'<button name="amount" value="{amount}">{amount} {escape(currency)}</button>'
        for amount in AMOUNTS
    )
    held = " &middot; ".join(f"{shown(amount)} {escape(name)}" for name, amount in balances.items())
    kind, role = ("failed", "alert") if failed else ("paid", "status")
    told = f'<p class="{kind}" role="{role}">{escape(notice)}</p>' if notice else ""
    return Template(template).substitute(
        balance=held,
        buttons=buttons,
        currency=escape(currency),
        notice=told,
        token=escape(token),
    )


def shown(amount: Decimal) -> str:
    """Write *amount* with two decimals, or up to four where they say more."""
    plain = f"{amount.quantize(Decimal('0.0001'), ROUND_DOWN).normalize():f}"
    return plain if len(plain.partition(".")[2]) > 2 else f"{amount:.2f}"
