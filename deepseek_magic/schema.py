"""The tables of the ledger, how they came about, and what is asked of them.

Times are microseconds since 1970, UTC; amounts are whole multiples of
10 ** -12, so that SQLite adds them exactly up to nine million units of a
currency. The tables `days` and `cells` hold the sums of the entries, kept by
triggers in the same transaction, so that adding up reads few rows.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .store import Step

COUNTS = (
    "prompt_tokens",
    "prompt_cache_hit_tokens",
    "prompt_cache_miss_tokens",
    "completion_tokens",
    "reasoning_tokens",
)
AMOUNTS = ("cost", "low", "likely", "high", "reserved", "saved")
BY = ("day", "model", "notebook", "cell")
"""What spending can be added up by."""

# The sums


FREE = ("refused", "failed")
"""A call that ends in these states costs nothing."""

BILLED = f"{{row}}.state NOT IN {('sent', *FREE)}"
RANGED = "{row}.cost IS NULL AND {row}.high IS NOT NULL"
# Entries from before there were days have none; most are never touched again.
DAY = "COALESCE({row}.day, date({row}.sent / 1000000, 'unixepoch', 'localtime'), '')"

KEYS = {
    "account": "{row}.account",
    "day": DAY,
    "model": "{row}.model",
    "notebook": "COALESCE({row}.notebook, '')",
    "cell": "COALESCE({row}.cell, '')",
    "currency": "COALESCE({row}.currency, '')",
}
"""What sums are grouped by; a key that is not known is an empty text, as NULL equals nothing."""

PARTS = {
    "queries": "1",
    "exact": "{row}.cost IS NOT NULL",
    "ranged": RANGED,
    "cost": "COALESCE({row}.cost, 0)",
    "low": f"CASE WHEN {RANGED} THEN COALESCE({{row}}.low, 0) ELSE 0 END",
    "likely": f"CASE WHEN {RANGED} THEN COALESCE({{row}}.likely, {{row}}.low, 0) ELSE 0 END",
    "high": f"CASE WHEN {RANGED} THEN {{row}}.high ELSE 0 END",
    **{name: f"COALESCE({{row}}.{name}, 0)" for name in ("saved", *COUNTS)},
    **{f"{name}_known": f"{{row}}.{name} IS NOT NULL" for name in ("saved", *COUNTS)},
}
"""What one entry adds to a sum; what is not known in any of its entries is not known of the sum."""

TABLES = {"days": tuple(key for key in KEYS if key != "cell"), "cells": tuple(KEYS)}


def _added(table: str, rows: str) -> str:
    """Give the statement that adds the sums that *rows* selects to those of *table*."""
    keys = TABLES[table]
    # Unlike SUM, this never fails: what is too large goes on as a floating-point number.
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in PARTS)
    return (
        f"INSERT INTO {table} ({', '.join((*keys, *PARTS))}) SELECT {rows}"
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"
    )


def _share(table: str, row: str, sign: str = "") -> str:
    """Give what *row* adds to *table*; "-" takes it away."""
    values = [KEYS[key] for key in TABLES[table]] + [f"{sign}({part})" for part in PARTS.values()]
    return ", ".join(values).format(row=row)


def _emptied(table: str) -> str:
    same = " AND ".join(f"{key} = {KEYS[key]}" for key in TABLES[table])
    return f"DELETE FROM {table} WHERE {same} AND queries = 0".format(row="OLD")


def _triggers() -> dict[str, str]:
    """Give the triggers that keep the sums, by name: what an entry was goes, what it is comes."""
    add = [_added(table, f"{_share(table, 'NEW')} WHERE true") for table in TABLES]
    take = [_added(table, f"{_share(table, 'OLD', '-')} WHERE true") for table in TABLES]
    take += [_emptied(table) for table in TABLES]
    counted = {"account", "sent", "state", *BY, "currency", "saved", *COUNTS}
    change = f"UPDATE OF {', '.join(sorted(counted | {'cost', 'low', 'likely', 'high'}))}"
    was, is_now = BILLED.format(row="OLD"), BILLED.format(row="NEW")
    return {
        "sums_added": _trigger("INSERT", is_now, add),
        "sums_changed": _trigger(change, is_now, add),
        "sums_corrected": _trigger(change, was, take),
        "sums_taken": _trigger("DELETE", was, take),
    }


def _trigger(event: str, when: str, statements: list[str]) -> str:
    return f"AFTER {event} ON entries WHEN {when} BEGIN {'; '.join(statements)}; END"


# The steps


def m001_entries_and_readings(db: sqlite3.Connection) -> None:
    """Create the first tables."""
    db.execute(
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, sent INTEGER NOT NULL, ended INTEGER,"
        " account TEXT NOT NULL, state TEXT NOT NULL, model TEXT NOT NULL, think TEXT,"
        " notebook TEXT, cell TEXT, request TEXT, prompt_tokens INTEGER,"
        " prompt_cache_hit_tokens INTEGER, prompt_cache_miss_tokens INTEGER,"
        " completion_tokens INTEGER, reasoning_tokens INTEGER, price TEXT, band TEXT,"
        " currency TEXT, cost INTEGER, seconds REAL, finish_reason TEXT, error TEXT,"
        " trace_id TEXT, answer TEXT, reasoning TEXT)"
    )
    db.execute("CREATE INDEX entries_ended ON entries (account, ended)")
    db.execute(
        "CREATE TABLE readings (account TEXT NOT NULL, at INTEGER NOT NULL,"
        " available INTEGER, currency TEXT, total TEXT, granted TEXT, topped_up TEXT)"
    )
    db.execute("CREATE INDEX readings_at ON readings (account, at)")


def m002_pending_cells(db: sqlite3.Connection) -> None:
    """Create the table of cells that wait for money; a place holds one at a time."""
    db.execute(
        "CREATE TABLE pending (id INTEGER PRIMARY KEY, since INTEGER NOT NULL,"
        " account TEXT NOT NULL, notebook TEXT NOT NULL, place TEXT NOT NULL, cell TEXT,"
        " text TEXT, asks INTEGER NOT NULL, answered INTEGER)"
    )
    db.execute("CREATE UNIQUE INDEX pending_place ON pending (account, notebook, place)")


def m003_ranges_reservations_and_sums(db: sqlite3.Connection) -> None:
    """Add what a call may cost, who asked it and on which day, and the sums of all entries.

    Entries of old get no day unless their cost may still become known: to rewrite
    all of them, with their texts, would take minutes.
    """
    for column in (
        *("day TEXT", "json INTEGER", "owner TEXT", "reserved INTEGER"),
        *("low INTEGER", "likely INTEGER", "high INTEGER", "saved INTEGER"),
    ):
        db.execute(f"ALTER TABLE entries ADD COLUMN {column}")
    db.execute(f"UPDATE entries SET day = {DAY.format(row='entries')} WHERE cost IS NULL")
    db.execute("CREATE TABLE told (account TEXT, what TEXT, PRIMARY KEY (account, what))")
    _create_sums(db)
    _create_indexes(db)
    db.execute(
        "CREATE TRIGGER entries_day AFTER INSERT ON entries WHEN NEW.day IS NULL BEGIN"
        f" UPDATE entries SET day = {DAY.format(row='NEW')} WHERE id = NEW.id; END"
    )
    for name, body in _triggers().items():
        db.execute(f"CREATE TRIGGER {name} {body}")


def _create_sums(db: sqlite3.Connection) -> None:
    for table, keys in TABLES.items():
        columns = [f"{key} TEXT NOT NULL" for key in keys]
        columns += [f"{name} INTEGER NOT NULL" for name in PARTS]
        db.execute(
            f"CREATE TABLE {table} ({', '.join(columns)}, PRIMARY KEY ({', '.join(keys)}))"
            " WITHOUT ROWID"
        )
    # The texts of a million entries are passed once.
    counted = BILLED.format(row="entries")
    db.execute(_added("cells", f"{_share('cells', 'entries')} FROM entries WHERE {counted}"))
    sums = ", ".join((*TABLES["days"], *PARTS))
    db.execute(_added("days", f"{sums} FROM cells WHERE true"))


def _create_indexes(db: sqlite3.Connection) -> None:
    """Create indexes that hold all that is read by them, so that no texts are read with it."""
    db.execute("DROP INDEX entries_ended")
    db.execute(
        "CREATE INDEX entries_ended ON entries"
        " (account, ended, state, currency, cost, low, likely, high, sent) WHERE ended IS NOT NULL"
    )
    db.execute(
        "CREATE INDEX entries_under_way ON entries"
        " (account, day, currency, reserved, owner, sent, state) WHERE state = 'sent'"
    )
    db.execute(
        "CREATE INDEX entries_of_a_kind ON entries"
        " (account, model, think, json, id, prompt_tokens, completion_tokens, state)"
        " WHERE state = 'done'"
    )


def m004_questions(db: sqlite3.Connection) -> None:
    """Let an answer be found by the name of its question, among any number of others."""
    db.execute("ALTER TABLE entries ADD COLUMN question TEXT")
    db.execute(
        "CREATE INDEX entries_answered ON entries (account, question, ended, completion_tokens)"
        " WHERE question IS NOT NULL AND state = 'done'"
    )


def m005_conversations(db: sqlite3.Connection) -> None:
    """Create the table of turns, a row for each place, and name the conversation of a call.

    A row without a question holds the place of one that has no whole answer yet.
    """
    db.execute(
        "CREATE TABLE turns (id INTEGER PRIMARY KEY, account TEXT NOT NULL,"
        " notebook TEXT NOT NULL, chat TEXT NOT NULL, place TEXT NOT NULL, cell TEXT,"
        " position INTEGER NOT NULL, since INTEGER NOT NULL, asking TEXT, question TEXT,"
        " answer TEXT, model TEXT, tokens INTEGER, ended INTEGER)"
    )
    db.execute("CREATE UNIQUE INDEX turns_place ON turns (account, notebook, chat, place)")
    db.execute("ALTER TABLE entries ADD COLUMN chat TEXT")
    db.execute(
        "CREATE INDEX entries_of_a_chat ON entries"
        " (account, chat, notebook, sent, state, currency, cost, likely, low)"
        " WHERE chat IS NOT NULL"
    )


def m006_cut_answers(db: sqlite3.Connection) -> None:
    """Let it be found how long answers were that had no more room."""
    db.execute(
        "CREATE INDEX entries_cut ON entries (account, question, completion_tokens)"
        " WHERE question IS NOT NULL AND finish_reason = 'length'"
    )


STEPS: tuple[Step, ...] = (
    m001_entries_and_readings,
    m002_pending_cells,
    m003_ranges_reservations_and_sums,
    m004_questions,
    m005_conversations,
    m006_cut_answers,
)
"""Each runs once, in order, and is remembered by its name. Append only."""

# The statements


READING = (
    "INSERT INTO readings VALUES (:account, :at, :available, :currency, :total, :granted,"
    " :topped_up)"
)
LAST_READING = (
    "SELECT available, currency, total, granted, topped_up, at FROM readings WHERE account = ?"
    " AND at = (SELECT MAX(at) FROM readings WHERE account = ?"
    " AND at <= IFNULL(?, at))"
)
READINGS = (
    "SELECT at, currency, total FROM readings WHERE account = ? AND at > ? ORDER BY at, rowid"
)

SPENT = (
    "SELECT currency, SUM(COALESCE(cost, likely, low)) FROM entries WHERE account = ?"
    " AND ended > ? AND ended <= IFNULL(?, ended)"
    " AND COALESCE(cost, likely, low) IS NOT NULL AND currency IS NOT NULL"
    " GROUP BY currency"
)
# The sums are kept, so that this takes no longer after a hundred thousand calls than after one.
SUM_FROM = (
    "SELECT COALESCE(SUM(cost + likely), 0) FROM days"
    " WHERE account = ? AND currency = ? AND day >= ?"
)
SPENDING = (
    "SELECT * FROM (SELECT ended, currency, COALESCE(cost, low, 0) AS low,"
    " COALESCE(cost, high) AS high, sent FROM entries"
    f" WHERE account = :account AND ended > :since AND state NOT IN {('sent', *FREE)} UNION ALL"
    " SELECT NULL, currency, 0, reserved, sent FROM entries"
    " WHERE account = :account AND state = 'sent') ORDER BY ended IS NULL, ended, sent"
)
TODAY = (
    "SELECT"
    " (SELECT COALESCE(SUM(cost + high), 0) FROM days"
    " WHERE account = :account AND day = :day AND currency = :currency) AS spent,"
    " (SELECT COALESCE(SUM(cost + likely), 0) FROM days"
    " WHERE account = :account AND day = :day AND currency = :currency) AS likely,"
    " (SELECT COALESCE(SUM(reserved), 0) FROM entries"
    " WHERE account = :account AND day = :day AND currency = :currency AND state = 'sent')"
    " AS under_way,"
    " (SELECT COALESCE(SUM(queries - exact - ranged), 0) FROM days"
    " WHERE account = :account AND day = :day AND currency IN (:currency, '')) AS unpriced"
)
DAYS = (
    "SELECT day, SUM(cost + likely) FROM days WHERE account = ? AND currency = ? AND day >= ?"
    " AND exact + ranged > 0 GROUP BY day"
)
# No more than the newest are looked at, or a length that no answer has would be sought in all.
OF_A_KIND = (
    "SELECT completion_tokens FROM (SELECT id, prompt_tokens, completion_tokens FROM entries"
    " WHERE account = ? AND model = ? AND think IS ? AND json IS ? AND state = 'done'"
    " ORDER BY id DESC LIMIT 500)"
    " WHERE completion_tokens IS NOT NULL AND prompt_tokens BETWEEN ? AND ?"
    " ORDER BY id DESC LIMIT 50"
)
_SOME = (
    "SELECT * FROM (SELECT id, completion_tokens FROM entries"
    " WHERE account = :account AND model = :model AND think IS :think AND json IS {}"
    " AND state = 'done' ORDER BY id DESC LIMIT 50)"
)
OF_A_MODEL = (
    f"SELECT completion_tokens FROM ({' UNION ALL '.join(map(_SOME.format, (0, 1, 'NULL')))})"
    " WHERE completion_tokens IS NOT NULL ORDER BY id DESC LIMIT 50"
)


def usage(by: tuple[str, ...]) -> str:
    """Give the statement that adds up *by* any of `BY`, of an account since a day."""
    table = "cells" if "cell" in by else "days"
    columns = [f"NULLIF({key}, '') AS {key}" for key in (*by, "currency")]
    columns += [f"SUM({name}) AS {name}" for name in ("queries", "exact", "ranged")]
    columns += [f"SUM({name}) AS {name}" for name in ("cost", "low", "high")]
    columns += [
        f"CASE WHEN SUM({name}_known) > 0 THEN SUM({name}) END AS {name}"
        for name in ("saved", *COUNTS)
    ]
    # In the order of the table's own key nothing has to be sorted.
    keys = ", ".join(f"{table}.{key}" for key in (*by, "currency"))
    return (
        f"SELECT {', '.join(columns)} FROM {table}"
        f" WHERE account = ? AND day >= ? GROUP BY {keys} ORDER BY {keys}"
    )


_ONLY_RESERVED = (
    "cost IS NULL AND high IS NULL AND reserved IS NOT NULL"
    " AND (:currency IS NULL OR currency IS :currency)"
)
BOUNDED = [
    f"low = CASE WHEN {_ONLY_RESERVED} THEN 0 ELSE low END",
    f"high = CASE WHEN {_ONLY_RESERVED} THEN reserved ELSE high END",
]
"""What the end of a call says of its cost where nothing else does: no more than was reserved."""

UNLESS_FORGOTTEN = "CASE WHEN chat IS NULL OR question IS NOT NULL THEN :{} END"
"""A late answer leaves no text of a conversation that was forgotten while it was under way."""

LEFT_OPEN = "SELECT id, owner, sent FROM entries WHERE state = 'sent'"
SWEEP = (
    "UPDATE entries SET state = 'interrupted', ended = MAX(:ended, sent),"
    " low = CASE WHEN reserved IS NOT NULL THEN 0 END, high = reserved"
    " WHERE id = :id AND state = 'sent'"
)
UNPRICED = (
    f"SELECT id, model, currency, sent, ended, {', '.join(COUNTS)} FROM entries"
    " WHERE account = ? AND ended IS NOT NULL AND cost IS NULL"
    f" AND state NOT IN {('sent', *FREE)}"
    " AND prompt_tokens IS NOT NULL AND completion_tokens IS NOT NULL"
)
PRICE = (
    "UPDATE entries SET currency = :currency, cost = :cost, low = :low, likely = :likely,"
    " high = :high WHERE id = :id AND cost IS NULL"
)
TOLD = "INSERT OR IGNORE INTO told VALUES (?, ?)"

PEND = (
    "INSERT INTO pending (id, since, account, notebook, place, cell, text, asks, answered)"
    " VALUES (:id, :since, :account, :notebook, :place, :cell, :text, :asks, :answered)"
    " ON CONFLICT (account, notebook, place) DO UPDATE"
    " SET text = excluded.text, asks = excluded.asks, answered = excluded.answered"
)
# A cell with an id of its own is never meant by the words of another.
THE_CELL = (
    " WHERE account = :account AND notebook = :notebook AND (place IN (:place, :unread)"
    " OR (cell IS NULL OR :cell IS NULL) AND (place = :by_text OR text = :text AND asks))"
    " AND (:asks OR NOT asks)"
)
WAITS = "SELECT EXISTS (SELECT 1 FROM pending WHERE account = ?)"
WAITING = "SELECT * FROM pending WHERE account = ? ORDER BY since, id"

ANSWERS = (
    "SELECT * FROM entries WHERE account = ? AND ended IS NOT NULL AND answer IS NOT NULL"
    " ORDER BY ended DESC, sent DESC, id DESC LIMIT ?"
)
NEWEST = (
    "SELECT * FROM entries WHERE account = ? AND notebook IS ? AND request IS NOT NULL"
    " AND ended >= ? ORDER BY ended DESC LIMIT ?"
)
UNDER_WAY = (
    "SELECT * FROM entries WHERE account = ? AND notebook IS ? AND request IS NOT NULL"
    " AND state = 'sent' ORDER BY sent DESC LIMIT ?"
)
_ANSWERED = (
    " FROM entries WHERE account = ? AND question IN (SELECT value FROM json_each(?))"
    " AND question IS NOT NULL AND state = 'done' AND finish_reason = 'stop'"
    " AND (? IS NULL OR COALESCE(completion_tokens, 0) <= ?) AND ended >= ?"
)
ANSWERED = f"SELECT DISTINCT question{_ANSWERED}"
"""Which of some questions have a whole answer: no longer than so many tokens, since a moment.

One of no known length is whole all the same, and not paid for once more.
"""
ANSWERED_WITH = f"SELECT *{_ANSWERED} AND answer IS NOT NULL ORDER BY ended"
CUT = (
    "SELECT MAX(completion_tokens) FROM entries WHERE account = ?"
    " AND question IN (SELECT value FROM json_each(?))"
    " AND question IS NOT NULL AND finish_reason = 'length'"
)
"""How long the longest answer to one of some questions was when it was cut."""
KEPT = (
    "SELECT * FROM entries WHERE account = ? AND ended >= ? AND request = ? AND state = 'done'"
    " AND answer IS NOT NULL ORDER BY ended DESC LIMIT 1"
)

# Conversations: a place is taken at the end, once, and holds the newest whole answer.


_CHAT = "account = :account AND notebook = :notebook AND chat = :chat"
TAKE_TURN = (
    "INSERT INTO turns (account, notebook, chat, place, cell, position, since, asking)"
    " SELECT :account, :notebook, :chat, :place, :cell,"
    f" COALESCE((SELECT MAX(position) FROM turns WHERE {_CHAT}), 0) + 1, :at, :asking WHERE true"
    " ON CONFLICT (account, notebook, chat, place) DO UPDATE SET asking = excluded.asking"
)
# A conversation that was forgotten meanwhile does not come back with a late answer.
KEEP_TURN = (
    "UPDATE turns SET question = :question, answer = :answer, model = :model, tokens = :tokens,"
    f" ended = :at, asking = NULL WHERE {_CHAT} AND place = :place"
)
MOVE_TURN = (
    "DELETE FROM turns WHERE account = :account AND notebook = :notebook AND cell = :cell"
    " AND chat <> :chat"
)
TURNS = (
    "SELECT turns.* FROM (SELECT 1) LEFT JOIN turns ON account = ? AND notebook = ?"
    " ORDER BY chat, position"
)
"""All turns of a notebook; without any, one row of nothing: no row means that nobody knows."""
FORGET_TURNS = f"DELETE FROM turns WHERE {_CHAT}"
FORGET_TEXTS = (
    "UPDATE entries SET request = NULL, answer = NULL, reasoning = NULL, question = NULL"
    " WHERE account = :account AND notebook IS :of AND chat = :tag"
)
SPENT_IN_CHAT = (
    "SELECT currency, SUM(COALESCE(cost, likely, low)),"
    " SUM(COALESCE(cost, likely, low) IS NULL) FROM entries"
    " WHERE account = ? AND notebook IS ? AND chat = ? AND sent >= ?"
    f" AND state NOT IN {('sent', *FREE)} GROUP BY currency"
)
