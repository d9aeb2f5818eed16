"""The subcommands of `%deepseek`, each the method of its name.

A subcommand reads its words, calls what knows how, and prints or shows what
came of it. A word that is wrong is one line, and does nothing.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .elements import at_least, money
from .errors import DeepSeekError, InvalidOption, NoKey, nearest, one_line
from .options import help_text
from .schema import BY
from .wire import SHORT_NAMES, Key, amount
from .words import later, listed, sentences, t, tn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal

    from .elements import Shown
    from .last_error import Failure
    from .ledger import Pending
    from .workspace import Workspace

SUBCOMMANDS = {
    "balance": later("show what is left; it follows every query"),
    "usage": later(
        "[--by day,model,notebook,cell] [--days N] add up what was spent, or --notebook FILE"
    ),
    "answers": later("[N] list the newest answers that are kept, or show one again for nothing"),
    "fix": later(
        "[options of %%deepseek] ask why the last cell failed; --code adds the corrected cell"
    ),
    "continue": later(
        "[-o NAME] [--max-tokens N] [--dry-run] let the answer that broke off or was cut last go on"
    ),
    "chat": later(
        "list the conversations of this notebook; show [NAME] their turns, forget [NAME] or --all"
    ),
    "pending": later("show the cells that wait for money (forget N or all: let them go)"),
    "rerun": later("[N or all] ask again, or run again, the cells that wait for money"),
    "wait": later("[MINUTES] block until there is money on the account"),
    "models": later("list the models that the API offers now"),
    "prices": later("show the prices, or --set MODEL CURRENCY HIT MISS OUT, or --unset MODEL"),
    "login": later("type the key in, hidden (--save keeps it in the system's keyring)"),
    "sandbox": later(
        "on [AMOUNT CURRENCY] [-o NAME], top-up AMOUNT, fail WHAT, off: a simulated account"
    ),
    "guard": later("on or off: show the notice below ordinary cells that meet an empty balance"),
    "config": later("show the settings of this notebook and how to change them"),
}
FAILURES: dict[str, dict[str, Any]] = {
    **{str(status): {"status": status} for status in (400, 401, 402, 429, 500, 503)},
    **{then: {"then": then, "after": 40} for then in ("close", "stall", "garbage", "end")},
    "no-done": {"then": "no-done"},
    "empty": {"text": ""},
    "filter": {"finish_reason": "content_filter"},
    "resources": {"finish_reason": "insufficient_system_resource"},
}
"""What the sandbox can be told to fail with; for each the fields of its `Reply`."""
NEXT_WORDS = {
    "chat": ("show", "forget"),
    "continue": ("-o", "--max-tokens", "--dry-run"),
    "guard": ("on", "off"),
    "login": ("--save",),
    "pending": ("forget",),
    "prices": ("--set", "--unset"),
    "rerun": ("all",),
    "sandbox": ("on", "top-up", "fail", "off"),
    "usage": ("--by", "--days", "--notebook"),
}
"""What can follow a subcommand."""
MOST_DAYS = 3660
"""The longest time that usage is asked for in days."""


def manual() -> str:
    """Give the whole help: options of the cell magic, subcommands of the line magic."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  %deepseek {name:<{width}}  {t(what)}" for name, what in SUBCOMMANDS.items()]
    return f"{help_text().rstrip()}\n\n{t('manage:')}\n" + "\n".join(lines) + "\n"


class Host(Protocol):
    """What the subcommands need of the magics."""

    guard: Any
    prices: Any
    wait_hours: Any

    @property
    def workspace(self) -> Workspace:
        """What lives in this notebook."""

    def ask(self, line: str, text: str, row: Pending | None = None) -> None:
        """Ask the question of a cell."""

    def last_failure(self) -> Failure | None:
        """Give how a cell failed last."""

    def go_on(
        self,
        text: str,
        out: str | None,
        *,
        max_tokens: int | None = None,
        dry_run: bool = False,
    ) -> None:
        """Go on with the answer that broke off or was cut last."""

    def traits(self, *, config: bool) -> Mapping[str, Any]:
        """Give the settings."""


class Commands:
    """The subcommands, for the notebook of *host*."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def run(self, line: str) -> None:
        """Run the subcommand that *line* names; without one, tell all there is."""
        words = _words(line)
        if not words or words[0] in {"-h", "--help", "help"}:
            print(manual())
            return
        name, *rest = words
        if name not in SUBCOMMANDS:
            near = nearest(name, SUBCOMMANDS)
            raise InvalidOption(
                sentences(
                    t("There is no subcommand {name!r}.", name=one_line(name, 40)),
                    t("Did you mean %deepseek {near}?", near=near) if near else "",
                    t(
                        "All: %deepseek -h. To ask a question, start the cell with %%deepseek and "
                        "write it in the lines below."
                    ),
                )
            )
        command: Callable[..., None] = getattr(self, f"do_{name}")
        command(*rest)

    def do_balance(self, *rest: str) -> None:
        """Show the balance."""
        _no_more("balance", rest)
        self._host.workspace.show_balance()

    def do_usage(self, *rest: str) -> None:
        """Add up what was spent, by the ledger or by what a saved notebook shows."""
        from . import chart, spending

        flags = _flags("usage", rest, {"--by": "day,model", "--days": "7", "--notebook": "a.ipynb"})
        publish = self._host.workspace.notices.publish
        if "--notebook" in flags:
            publish(_of_notebook(flags))
            return
        today = datetime.now().astimezone().date()
        by = _by(flags.get("--by", []), BY) or spending.DEFAULT_BY
        days = _number_of_days(flags.get("--days", []))
        since = None if days is None else today - timedelta(days=days - 1)
        session = self._host.workspace.session
        rows = session.ledger.usage(session.account, by=by, since=since)
        if not rows and days is not None:
            publish(spending.nothing_shown(days))
            return
        drawn = today - timedelta(days=min(days or chart.MOST_DAYS, chart.MOST_DAYS) - 1)
        of_days = session.ledger.usage(session.account, by=("day", "model"), since=drawn)
        publish(spending.usage_shown(rows, by, chart.picture(of_days, today, days)))

    def do_answers(self, *rest: str) -> None:
        """List the answers that the ledger keeps, or show one of them again."""
        from . import tables

        session, workspace = self._host.workspace.session, self._host.workspace
        rows = session.ledger.answers(session.account)
        if not rest:
            workspace.notices.publish(tables.answers_shown(rows, datetime.now(UTC)))
            return
        known = {str(number): row for number, row in enumerate(rows, 1)}
        if len(rest) > 1 or rest[0] not in known:
            raise InvalidOption(
                t(
                    "%deepseek answers takes a number of its list, and {word!r} is none of these. "
                    "Nothing was sent. The list: %deepseek answers",
                    word=one_line(rest[0], 40),
                )
            )
        workspace.show_kept(known[rest[0]])

    def do_fix(self, *rest: str) -> None:
        """Ask why the last cell failed, with its text and a bounded traceback, keys taken out."""
        from .last_error import question_of

        failure = self._host.last_failure()
        if failure is None:
            raise InvalidOption(
                t(
                    "No cell of code has failed in this kernel; a question that failed says below "
                    "its cell what to do. Nothing was sent. To ask something else: %%deepseek"
                )
            )
        own = self._host.workspace.session.client.key
        self._host.ask(f"--raw {shlex.join(rest)}", question_of(failure, own))

    def do_continue(self, *rest: str) -> None:
        """Let the answer that broke off or was cut last go on, in the cell that is running."""
        from .options import parse

        given, why = {word.partition("=")[0] for word in rest if word.startswith("-")}, ""
        try:
            options = parse(shlex.join(rest))
        except InvalidOption as error:
            options, why = None, error.what if given else ""
        if options is None or given - {"-o", "--out", "--max-tokens", "--dry-run"}:
            raise InvalidOption(
                why,
                t(
                    "%deepseek continue takes nothing more, or -o NAME for the whole answer, "
                    "--max-tokens NUMBER for the rest, or --dry-run, and {given!r} is none of "
                    "these. Nothing was sent.",
                    given=one_line(" ".join(rest), 40),
                ),
            )
        text = " ".join(["%deepseek continue", *rest])
        self._host.go_on(text, options.out, max_tokens=options.max_tokens, dry_run=options.dry_run)

    def do_chat(self, *rest: str) -> None:
        """List the conversations of the notebook, show the turns of one, or forget some."""
        from . import chat_view

        session, notices = self._host.workspace.session, self._host.workspace.notices
        match rest:
            case ():
                notices.publish(chat_view.chats_shown(session.chats(), datetime.now(UTC)))
            case ("show", *name) if len(name) <= 1:
                turns = session.chat(*name)
                notices.publish(chat_view.turns_shown("".join(name), turns, datetime.now(UTC)))
            case ("forget", *name) if len(name) <= 1:
                every = name == ["--all"]
                gone = [chat.name for chat in session.chats()] if every else ["".join(name)]
                print(chat_view.forgotten([(one, session.forget_chat(one)) for one in gone]))
            case _:
                near = nearest(rest[0], NEXT_WORDS["chat"])
                raise InvalidOption(
                    t(
                        "%deepseek chat takes nothing more, show [NAME], forget [NAME] or forget "
                        "--all, and {words} is none of these.{hint} A name with blanks goes in "
                        "quotes. Nothing has changed.",
                        words=repr(one_line(" ".join(rest), 40)),
                        hint=t(" Did you mean {near}?", near=near) if near else "",
                    )
                )

    def do_pending(self, *rest: str) -> None:
        """Show the cells that wait for money, or let some of them go."""
        match rest:
            case ():
                self._host.workspace.notices.show_pending()
            case ("forget", *which) if which:
                pending = self._host.workspace.notices.pending
                gone = _chosen(pending.rows(), which, "pending forget")
                pending.forget(gone)
                print(
                    tn(
                        len(gone),
                        "{n:,} cell let go. What is in the notebook stays as it is.",
                        "{n:,} cells let go. What is in the notebook stays as it is.",
                    )
                )
            case _:
                raise InvalidOption(
                    t("%deepseek pending takes nothing more, or forget N, or forget all.")
                )

    def do_rerun(self, *rest: str) -> None:
        """Ask again what waits for money: in its place, or here where that cannot be reached."""
        pending = self._host.workspace.notices.pending
        rows, here = pending.rows(), pending.here()
        # An ordinary cell has effects of its own, so it runs again by its number only.
        asking = [row for row in here if row.asks]
        chosen = asking if list(rest) in ([], ["all"]) else _chosen(rows, rest, "rerun")
        for row in chosen:
            if row not in here and _exists(row.notebook):
                raise _elsewhere(row)
        if not chosen:
            print(_none_chosen(rest, len(here)))
            return
        follow, by_hand = self._host.workspace.notices.rerun(chosen, self._run_here)
        if by_hand:
            raise _by_hand_only(len(by_hand))
        if follow:
            print(
                t("1 cell runs again in its place.")
                if len(follow) == 1
                else t(
                    "{number:,} cells run again in their places, one after the other.",
                    number=len(follow),
                )
            )

    def _run_here(self, row: Pending) -> None:
        first, _, rest = (row.text or "").partition("\n")
        print(f"— {one_line((row.asks and rest) or first, 70)}", flush=True)
        if first.startswith("%deepseek "):
            self.run(first.removeprefix("%deepseek"))
            self._host.workspace.notices.pending.forget([row])
            return
        if row.asks:
            self._host.ask(first.removeprefix("%%deepseek").strip(), rest, row)
            return
        workspace = self._host.workspace
        with workspace.notices.instead_of(row):
            result = workspace.shell.run_cell(row.text, store_history=False)
        if not result.success:
            raise DeepSeekError(t("The cell failed again; its own error stands above."))
        workspace.notices.pending.forget([row])

    def do_wait(self, *rest: str) -> None:
        """Block until there is money."""
        if len(rest) > 1 or (rest and amount(rest[0]) is None):
            raise InvalidOption(t("%deepseek wait takes a number of minutes or nothing."))
        minutes = float(rest[0]) if rest else 60 * self._host.wait_hours
        balance = self._host.workspace.wait(60 * minutes)
        waiting = len(self._host.workspace.notices.pending.here())
        left = at_least(balance.effective, balance.currency)
        then = tn(
            waiting,
            "{n:,} cell waiting for it: %deepseek rerun",
            "{n:,} cells waiting for it: %deepseek rerun",
        )
        print(sentences(t("{left} on the account.", left=left), then if waiting else ""))

    def do_guard(self, *rest: str) -> None:
        """Switch the guard of ordinary cells."""
        if list(rest) not in ([], ["on"], ["off"]):
            raise InvalidOption(t("%deepseek guard takes on or off."))
        if rest:
            self._host.guard = rest[0] == "on"
        print(
            t("Guard on: an ordinary cell that meets DeepSeek's empty balance gets the notice too.")
            if self._host.guard
            else t("Guard off: ordinary cells are left alone.")
        )

    def do_models(self, *rest: str) -> None:
        """List the models that the API offers now."""
        from . import tables

        _no_more("models", rest)
        self._host.workspace.notices.publish(
            tables.models_shown(self._host.workspace.session.models())
        )

    def do_prices(self, *rest: str) -> None:
        """Show the prices of this hour, or set and unset a price of the user's own."""
        match rest:
            case ():
                self._show_prices()
            case ("--set", model, currency, *figures) if len(figures) in {3, 6}:
                self._set_price(SHORT_NAMES.get(model, model), currency.upper(), figures)
            case ("--unset", model):
                self._unset_price(SHORT_NAMES.get(model, model))
            case _:
                raise InvalidOption(
                    t(
                        "%deepseek prices takes nothing more, or --set MODEL CURRENCY and the "
                        "price of a million tokens: HIT MISS OUT (input from the cache, other "
                        "input, output; once more for peak hours), or --unset MODEL, for example: "
                        "%deepseek prices --set my-model CNY 0.02 1 4"
                    )
                )

    def _show_prices(self) -> None:
        from . import prices, tables

        now, known = datetime.now(UTC), prices.price_list()
        self._host.workspace.notices.publish(
            tables.prices_shown(
                prices.prices_of_day(now),
                now,
                known.checked,
                known.source,
                own=prices.own_prices(self._host.prices),
                changes=prices.next_change(now),
            )
        )

    def _set_price(self, model: str, currency: str, figures: Sequence[str]) -> None:
        from .prices import own_prices

        others, before = _parted(self._host.prices, model)
        given = {currency: " ".join(figures)}
        own_prices({model: given})
        self._host.prices = {**others, model: {**before, **given}}
        priced = self._repriced()
        said = t(
            "A million tokens of {model}: {price}.",
            model=one_line(model, 60),
            price=_in_words(figures, currency),
        )
        print(f"{sentences(said, _were_unpriced(priced))}\n{self._to_keep()}")

    def _unset_price(self, model: str) -> None:
        others, before = _parted(self._host.prices, model)
        if not before:
            near = nearest(model, others)
            raise InvalidOption(
                sentences(
                    t(
                        "No price of your own is set for {model!r}; nothing has changed.",
                        model=one_line(model, 60),
                    ),
                    _meant(near),
                    t("All prices: %deepseek prices"),
                )
            )
        self._host.prices = others
        print(
            t(
                "The price you set for {model} is gone. What was priced with it keeps its cost.",
                model=one_line(model, 60),
            ),
            self._to_keep(),
            sep="\n",
        )

    def _repriced(self) -> int:
        """Price what was unpriced; without a key there is no account to look at."""
        session = self._host.workspace.session
        session.own_prices = self._host.prices
        try:
            return session.reprice()
        except NoKey:
            return 0

    def _to_keep(self) -> str:
        own = {model: dict(table) for model, table in self._host.prices.items()}
        how = t(
            "This holds for this notebook. To keep it, write this line into ipython_config.py, "
            "which `ipython profile create` makes:"
        )
        return f"{how}\nc.{type(self._host).__name__}.prices = {own!r}"

    def do_login(self, *rest: str) -> None:
        """Take a key, typed in hidden."""
        save = list(rest) == ["--save"]
        if rest and not save:
            raise InvalidOption(
                t(
                    "%deepseek login asks for the key, hidden; nothing but --save may follow. If "
                    "that was a key, it is in this notebook and its history now: replace it at "
                    "https://platform.deepseek.com/api_keys"
                )
            )
        key = Key(_typed_key())
        balance = self._host.workspace.account.sign_in(key)
        if save:
            _keep_key(key)
        left = at_least(balance.effective, balance.currency)
        kept = t("The key is in the keyring.") if save else ""
        print(sentences(t("Signed in: {left} left.", left=left), kept))

    def do_sandbox(self, *rest: str) -> None:
        """Switch to a simulated account, top it up, or switch back."""
        match rest:
            case ("on", *words, "-o" | "--out", name) if len(words) <= 2:
                if not name.isidentifier():
                    raise InvalidOption(
                        t("{name!r} is no name; nothing has changed.", name=one_line(name, 40))
                    )
                self._sandbox_on(*words)
                self._host.workspace.shell.user_ns[name] = self._host.workspace.account.sandbox
            case ("on", *words) if len(words) <= 2:
                self._sandbox_on(*words)
            case ("top-up", more):
                self._sandbox_top_up(more)
            case ("fail", *words) if len(words) in {1, 2}:
                self._sandbox_fail(*words)
            case ("off",):
                self._sandbox_off()
            case _:
                raise InvalidOption(
                    t(
                        "%deepseek sandbox takes on [AMOUNT [CNY or USD]] [-o NAME], top-up "
                        "AMOUNT, fail WHAT, or off, for example: %deepseek sandbox on 0.05 CNY"
                    )
                )

    def _sandbox_on(self, balance: str = "0.05", currency: str = "CNY") -> None:

        currency = currency.upper()
        if currency not in {"CNY", "USD"}:
            raise InvalidOption(
                t(
                    "The sandbox keeps money in CNY or USD, not {currency!r}.",
                    currency=one_line(currency, 40),
                )
            )
        given = _amount(balance)
        sandbox = self._host.workspace.account.sandbox_on(given, currency)
        print(
            t(
                "Sandbox on: a simulated account with {balance}. No real money moves, nothing "
                "leaves this machine.\n"
                "Top it up at {url} or with: %deepseek sandbox top-up 10",
                balance=money(given, currency),
                url=sandbox.top_up_url,
            )
        )

    def _sandbox_top_up(self, more: str) -> None:

        if self._host.workspace.account.sandbox is None:
            raise InvalidOption(t("The sandbox is off. Switch it on first: %deepseek sandbox on"))
        self._host.workspace.account.sandbox.top_up(_amount(more))
        balance = self._host.workspace.session.balance()
        left = at_least(balance.effective, balance.currency)
        print(t("Topped up. {left} in the sandbox now.", left=left))

    def _sandbox_fail(self, what: str, times: str = "1") -> None:
        from .sandbox import Reply

        sandbox = self._host.workspace.account.sandbox
        if sandbox is None:
            raise InvalidOption(t("The sandbox is off. Switch it on first: %deepseek sandbox on"))
        if what not in FAILURES or not times.isdecimal() or not 1 <= int(times) <= 100:
            raise InvalidOption(
                t(
                    "%deepseek sandbox fail takes one of {kinds}, and how often (1 to 100), "
                    "for example: %deepseek sandbox fail 503 2",
                    kinds=listed(tuple(FAILURES)),
                )
            )
        number = int(times)
        before = sandbox.script(*[Reply(**FAILURES[what])] * number)
        print(
            t("The next request gets: {what}", what=what)
            if number == 1
            else t("The next {number} requests get: {what}", number=number, what=what)
        )
        if before:
            print(
                tn(
                    before,
                    "One that was set before comes first.",
                    "{n} that were set before come first.",
                )
            )

    def _sandbox_off(self) -> None:
        was_on = self._host.workspace.account.sandbox is not None
        self._host.workspace.account.sandbox_off()
        print(
            t("Sandbox off. The next question goes to your own account.")
            if was_on
            else t("The sandbox is off already.")
        )

    def do_config(self, *rest: str) -> None:
        """Show the settings."""
        from . import tables

        _no_more("config", rest)
        rows = [
            (name, repr(getattr(self._host, name)), t(trait.help))
            for name, trait in sorted(self._host.traits(config=True).items())
        ]
        self._host.workspace.notices.publish(tables.settings_shown(type(self._host).__name__, rows))


def _flags(name: str, rest: Sequence[str], known: Mapping[str, str]) -> dict[str, list[str]]:
    """Read flags and the words that follow each; *known* has an example for every flag."""
    found: dict[str, list[str]] = {}
    values: list[str] | None = None
    for word in rest:
        is_flag = word.startswith("-") and not word[1:2].isdecimal()
        flag, equals, value = word.partition("=") if is_flag else ("", "", "")
        if flag in known and flag not in found:
            values = found[flag] = [value] if equals else []
        elif flag or values is None:
            _no_such_flag(name, word, flag in found, known)
        else:
            values.append(word)
    for flag, words in found.items():
        if not any(words):
            raise InvalidOption(
                t(
                    "{flag} needs a value, for example: %deepseek {name} {flag} {example}",
                    flag=flag,
                    name=name,
                    example=known[flag],
                )
            )
    return found


def _no_such_flag(name: str, word: str, twice: bool, known: Mapping[str, str]) -> NoReturn:
    if twice:
        raise InvalidOption(t("{word} stands there twice; leave one out.", word=one_line(word, 40)))
    *most, last = known
    raise InvalidOption(
        sentences(
            t(
                "%deepseek {name} takes {most} and {last}, and {word!r} is none of them.",
                name=name,
                most=listed(most),
                last=last,
                word=one_line(word, 40),
            ),
            _meant(nearest(word, known)),
            t(
                "For example: %deepseek {name} {flag} {example}",
                name=name,
                flag=most[0],
                example=known[most[0]],
            ),
        )
    )


def _meant(name: str | None) -> str:
    return t("Did you mean {word}?", word=one_line(name, 60)) if name else ""


def _by(words: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Read what is added up by: names, with commas or blanks between them."""
    names = [name for word in words for name in word.split(",") if name]
    for name in names:
        if name not in known:
            raise InvalidOption(
                sentences(
                    t(
                        "Usage is not added up by {name!r}, only by {known}.",
                        name=one_line(name, 40),
                        known=listed(tuple(known)),
                    ),
                    _meant(nearest(name, known)),
                    t("For example: %deepseek usage --by day,model"),
                )
            )
    return tuple(dict.fromkeys(names))


def _number_of_days(words: Sequence[str]) -> int | None:
    if not words:
        return None
    text = " ".join(words)
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_DAYS):
        raise InvalidOption(
            t(
                "--days takes a number of days from 1 to {most:,}, and {text!r} is none. "
                "For example: %deepseek usage --days 7",
                most=MOST_DAYS,
                text=one_line(text, 40),
            )
        )
    return int(text)


def _of_notebook(flags: Mapping[str, Sequence[str]]) -> Shown:
    from . import spending, stamps

    if len(flags) > 1:
        raise InvalidOption(
            t(
                "--notebook adds up by model what a file shows, and goes with no other flag. The "
                "ledger knows more: %deepseek usage --by notebook,day"
            )
        )
    if len(flags["--notebook"]) > 1:
        raise InvalidOption(
            t(
                "--notebook takes one file. Where its name has blanks, put it in quotes: "
                '%deepseek usage --notebook "my notebook.ipynb"'
            )
        )
    path = Path(flags["--notebook"][0])
    found = stamps.of_file(path)
    return spending.notebook_shown(found, stamps.by_model(found.stamps), path.name)


def _parted(
    table: Mapping[str, Mapping[str, Any]], model: str
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Give the prices of other models, and those of *model*, also where it has its short name."""
    others: dict[str, dict[str, Any]] = {}
    own: dict[str, Any] = {}
    for name, entries in table.items():
        if SHORT_NAMES.get(name.strip(), name.strip()) == model:
            own |= {currency.strip().upper(): price for currency, price in entries.items()}
        else:
            others[name] = dict(entries)
    return others, own


def _in_words(figures: Sequence[str], currency: str) -> str:
    def three(hit: str, miss: str, out: str) -> str:
        return t(
            "{hit} for input from the cache, {miss} for other input, {out} for output",
            hit=hit,
            miss=miss,
            out=out,
        )

    price = three(*figures[:3])
    if len(figures) == 3:
        return t("{price}, in {currency}", price=price, currency=currency)
    peak = three(*figures[3:])
    return t("{price}, in {currency}; at peak {peak}", price=price, currency=currency, peak=peak)


def _were_unpriced(number: int) -> str:
    if not number:
        return ""
    return tn(
        number,
        "{n:,} question that was unpriced has a cost now.",
        "{n:,} questions that were unpriced have a cost now.",
    )


def _exists(notebook: str | None) -> bool:
    """Tell whether a notebook may still be there; one that was renamed or removed is not."""
    return notebook is None or not Path(notebook).is_absolute() or Path(notebook).exists()


def _elsewhere(row: Pending) -> InvalidOption:
    return InvalidOption(
        t(
            "That cell is in {notebook}. Nothing was sent. Open it there and run: %deepseek rerun",
            notebook=one_line(row.notebook or t("another session"), 60),
        )
    )


def _by_hand_only(number: int) -> InvalidOption:
    return InvalidOption(
        tn(
            number,
            "The text of {n:,} cell was not kept (it may hold a key, or DeepSeekMagics.keep says "
            "so), so it can only be run by hand. Nothing of it was sent.",
            "The text of {n:,} cells was not kept (it may hold a key, or DeepSeekMagics.keep says "
            "so), so it can only be run by hand. Nothing of it was sent.",
        )
    )


def _none_chosen(rest: Sequence[str], left: int) -> str:
    """Say why nothing runs; *left* cells of the user's own code wait."""
    if rest and rest[0].startswith("#"):
        return t("Nothing of that waits any more, so nothing was sent.")
    if not left:
        return t("No cell waits for money.")
    return tn(
        left,
        "No question waits for money. {n:,} cell of your own code can be run again by number: "
        "%deepseek pending",
        "No question waits for money. {n:,} cells of your own code can be run again by number: "
        "%deepseek pending",
    )


def _chosen(rows: Sequence[Pending], which: Sequence[str], command: str) -> list[Pending]:
    """Give the rows of these numbers, as `%deepseek pending` counts them.

    A button names a row for good, `#` and its id: its number may be another's by
    the time it runs.
    """
    if list(which) == ["all"]:
        return list(rows)
    named = {f"#{row.id}": row for row in rows}
    if all(word.startswith("#") for word in which):
        return [named[word] for word in which if word in named]
    known = {str(number): row for number, row in enumerate(rows, 1)} | named
    for word in which:
        if word not in known:
            look = t(
                "Look: %deepseek pending, then for example: %deepseek {command} 1",
                command=command,
            )
            raise InvalidOption(sentences(_no_such_cell(one_line(word, 40), len(rows)), look))
    return list(dict.fromkeys(known[word] for word in which))


def _no_such_cell(word: str, last: int) -> str:
    if last > 1:
        what = later("No cell {word!r} waits for money; there is 1 to {last}.")
    elif last == 1:
        what = later("No cell {word!r} waits for money; there is 1.")
    else:
        what = later("No cell {word!r} waits for money; there is none.")
    return t(what, word=word, last=last)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidOption(
            t("%deepseek cannot read its line ({error}). All: %deepseek -h", error=error)
        ) from None


def _no_more(name: str, rest: tuple[str, ...]) -> None:
    if rest:
        raise InvalidOption(
            t(
                "%deepseek {name} takes nothing more; leave out {word!r}.",
                name=name,
                word=one_line(rest[0], 40),
            )
        )


def _amount(text: str) -> Decimal:
    found = amount(text)
    if found is None:
        raise InvalidOption(
            t("{text!r} is not an amount; write for example 0.05", text=one_line(text, 40))
        )
    return found


def _typed_key() -> str:
    from getpass import getpass

    try:
        text = getpass(t("DeepSeek key (hidden): ")).strip()
    except Exception as error:
        raise InvalidOption(
            t("There is nobody to type the key in. Set DEEPSEEK_API_KEY before Jupyter starts.")
        ) from error
    if not text:
        raise InvalidOption(t("No key was typed in; nothing has changed. Again: %deepseek login"))
    return text


def _keep_key(key: Key) -> None:
    try:
        import keyring

        keyring.set_password("deepseek_magic", "api_key", key.reveal())
    except Exception as error:  # noqa: BLE001  # no package, no backend, or a locked one
        raise DeepSeekError(
            t(
                "Signed in, but the key was not kept, since no keyring can be used ({error}). "
                "It holds for this kernel. For a keyring: pip install keyring",
                error=type(error).__name__,
            )
        ) from None
