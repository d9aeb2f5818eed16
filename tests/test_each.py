"""`%%deepseek --each` in a shell of this process and in real kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from deepseek_magic import stamps
from deepseek_magic.errors import InsufficientBalance, InvalidOption, OverLimit
from deepseek_magic.sandbox import Reply, Sandbox
from harness.kernels import Kernels

ASK = "%%deepseek --each df -o out -t off --max-tokens 20"
LOAD = "%load_ext deepseek_magic"
FRAME = "import pandas as pd\ndf = pd.DataFrame({'text': [f'item {n}' for n in range(30)]})"
SCHEMA = "from pydantic import BaseModel\nclass Label(BaseModel):\n    topic: str\n    score: float"


@dataclass(frozen=True, slots=True)
class Ran:
    """One cell that was run: what it showed, and how it ended."""

    text: str
    error: BaseException | None


Run = Callable[[str], Ran]


@pytest.fixture
def run(account: Sandbox, shell: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a cell in a shell with 30 rows in `df`."""
    shell.user_ns["df"] = pd.DataFrame({"text": [f"item {n}" for n in range(30)]})

    def run_cell(source: str) -> Ran:
        capsys.readouterr()
        result = shell.run_cell(source)
        error = result.error_in_exec or result.error_before_exec
        return Ran(capsys.readouterr().out, error)

    return run_cell


def asked(api: Sandbox) -> list[str]:
    """Give the last message of each request for an answer."""
    bodies = [request.body for request in api.requests if request.body is not None]
    return [str(body["messages"][-1]["content"]) for body in bodies if "messages" in body]


# What comes back


def test_every_row_is_asked_once(run: Run, shell: Any, account: Sandbox) -> None:
    """The frame is bound, its rows in order, and one line tells what it took."""
    ran = run(f"{ASK}\nLabel: {{{{text}}}}")

    out = shell.user_ns["out"]
    assert ran.error is None
    assert list(out.columns) == ["text", "answer", "cost", "error"]
    assert list(out["text"]) == [f"item {n}" for n in range(30)]
    assert sorted(asked(account)) == sorted(f"Label: item {n}" for n in range(30))
    assert sum(out["cost"]) == account.billed
    assert "The first 5 of 30 rows" in ran.text
    assert "30 rows: 30 asked · " in ran.text
    assert "CNY left" in ran.text


def test_a_second_run_costs_nothing(run: Run, account: Sandbox) -> None:
    """What was answered comes from the ledger, and the line says so."""
    run(f"{ASK}\nLabel: {{{{text}}}}")
    sent = len(asked(account))

    ran = run(f"{ASK}\nLabel: {{{{text}}}}")

    assert len(asked(account)) == sent
    assert "30 rows: 30 from the ledger · nothing to pay" in ran.text


def test_fresh_asks_anew(run: Run, account: Sandbox) -> None:
    """With --fresh what was answered is asked again."""
    run(f"{ASK}\nLabel: {{{{text}}}}")
    sent = len(asked(account))

    run(f"{ASK} --fresh\nLabel: {{{{text}}}}")

    assert len(asked(account)) == 2 * sent


def test_without_a_name_it_says_how_to_get_one(run: Run, shell: Any) -> None:
    """A frame that is bound to nothing is shown, with the way to get at it."""
    ran = run("%%deepseek --each df -t off --max-tokens 20\nLabel: {{text}}")

    assert "out" not in shell.user_ns
    assert "The frame is bound to no name. Run the cell again with -o NAME" in ran.text


def test_limit_and_column(run: Run, shell: Any, account: Sandbox) -> None:
    """--limit asks about the first rows, --column names the answers."""
    run(f"{ASK} --limit 4 --column label\nLabel: {{{{text}}}}")

    assert list(shell.user_ns["out"].columns) == ["text", "label", "cost", "error"]
    assert len(shell.user_ns["out"]) == len(asked(account)) == 4


@pytest.mark.parametrize("how", ["flag", "trait"])
def test_concurrency(run: Run, account: Sandbox, shell: Any, how: str) -> None:
    """No more requests are under way than the flag, or the trait, allows."""
    account.change(latency=0.05, concurrency={"deepseek-flash": 2})
    if how == "trait":
        shell.run_cell("%config DeepSeekMagics.concurrency = 2")
    flag = " --concurrency 2" if how == "flag" else ""

    run(f"{ASK}{flag} --limit 8\nLabel: {{{{text}}}}")

    assert len(asked(account)) == 8
    assert 429 not in [request.status for request in account.requests]


def test_a_schema_makes_columns(run: Run, shell: Any) -> None:
    """The fields of a Pydantic model are the columns."""
    run(SCHEMA)

    run("%%deepseek --each df -o out -t off --limit 3 --schema Label\nLabel: {{text}}")

    out = shell.user_ns["out"]
    assert list(out.columns) == ["text", "topic", "score", "cost", "error"]
    assert out["score"].notna().all()


def test_json(run: Run, shell: Any) -> None:
    """With --json each answer is what its JSON says."""
    run("%%deepseek --each df -o out -t off --limit 2 --json\nAs JSON: {{text}}")

    assert all(isinstance(answer, dict) for answer in shell.user_ns["out"]["answer"])


def test_names_of_the_notebook(run: Run, shell: Any, account: Sandbox) -> None:
    """Besides columns, the template may use what is defined in the notebook."""
    shell.user_ns["tone"] = "short"

    run("%%deepseek --each df -o out -t off --limit 1\n{{tone}} {{text.upper()}}")

    assert asked(account) == ["short ITEM 0"]


# DATA


def test_a_file(run: Run, shell: Any, tmp_path: Path) -> None:
    """A path ends in the name of its kind, in quotes or not."""
    shell.user_ns["df"].to_csv(tmp_path / "rows.csv", index=False)

    run(f"%%deepseek --each {tmp_path}/rows.csv -o out -t off --limit 2\nLabel: {{{{text}}}}")

    assert list(shell.user_ns["out"]["text"]) == ["item 0", "item 1"]


def test_an_expression(run: Run, shell: Any) -> None:
    """An expression of the notebook is evaluated there."""
    run("%%deepseek --each \"df[df.text == 'item 7']\" -o out -t off\nLabel: {{text}}")

    assert list(shell.user_ns["out"]["text"]) == ["item 7"]
    assert list(shell.user_ns["out"].index) == [7]


def test_an_attribute_is_no_file(run: Run, shell: Any) -> None:
    """What is called like a file and is a value of the notebook is the value."""
    shell.user_ns["data"] = type("Data", (), {"csv": ["one", "two"]})

    run("%%deepseek --each data.csv -o out -t off\nLabel: {{text}}")

    assert list(shell.user_ns["out"]["text"]) == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--each dff", "names dff, which does not exist in this notebook. Did you mean df?"),
        ("--each df[", "is no expression of Python"),
        ("--each 1/0", "fails: ZeroDivisionError: division by zero. Nothing was sent."),
        ("--each 42", "has no rows to ask about. Nothing was sent."),
        ("--each gone.csv", "gone.csv"),
        ("--each df[df.text==x]", "goes in quotes as a whole"),
        (
            "--each df --schema Nothing",
            "this notebook. Nothing was sent. Define it in a cell above",
        ),
        ("--each df --schema 42", "is no model"),
        ("--each df --column text", "already"),
        ("--column x", "--column goes only with --each DATA"),
    ],
)
def test_what_cannot_be_used_is_one_line(run: Run, account: Sandbox, line: str, says: str) -> None:
    """Before anything is sent, one line says what is wrong."""
    ran = run(f"%%deepseek {line} -o out -t off\nLabel: {{{{text}}}}")

    assert isinstance(ran.error, InvalidOption)
    assert says in str(ran.error)
    assert "\n" not in str(ran.error)
    assert not asked(account)


# When it ends early


def test_money_gone(run: Run, shell: Any, account: Sandbox) -> None:
    """What there is is bound and shown; the notice counts the rows; a top-up pays for the rest."""
    account.balance = Decimal("0.0003")
    source = f"{ASK} --concurrency 2\nLabel: {{{{text}}}}"

    ran = run(source)
    partial = shell.user_ns["out"]
    answers = int(partial["error"].isna().sum())
    account.top_up("1.00")
    again = run(source)

    assert isinstance(ran.error, InsufficientBalance)
    assert ran.error.partial is partial
    assert 0 < answers < 30
    assert f"out of money · 30 rows: {answers} asked, {30 - answers} left" in ran.text
    assert f"{answers} of 30 have their answer, which is kept; {30 - answers} are left" in ran.text
    assert "for the rows that are left" in ran.text
    assert again.error is None
    assert f"{30 - answers} asked, {answers} from the ledger" in again.text
    assert shell.user_ns["out"]["error"].isna().all()
    paid = [request for request in account.requests if request.status == 200 and request.body]
    assert len(paid) == 30


def test_raise_shows_no_notice(run: Run, shell: Any, account: Sandbox) -> None:
    """With --on-empty raise the error alone tells, and what there is is bound."""
    account.balance = Decimal("0.0003")

    ran = run(f"{ASK} --concurrency 2 --on-empty raise\nLabel: {{{{text}}}}")

    assert isinstance(ran.error, InsufficientBalance)
    assert "Top up at" not in ran.text
    assert shell.user_ns["out"] is ran.error.partial


def test_wait_goes_on_with_the_missing_rows(run: Run, shell: Any, account: Sandbox) -> None:
    """With --on-empty wait the cell goes on by itself, and no row is paid twice."""
    account.balance = Decimal("0.0003")

    done = threading.Event()

    def empty_and_looked_at() -> bool:
        seen = [request.status for request in account.traffic]
        return 402 in seen and "GET" in [
            request.method for request in account.traffic[seen.index(402) :]
        ]

    def pay() -> None:
        while not empty_and_looked_at():
            if done.wait(0.05):
                return
        account.top_up("1.00")

    payer = threading.Thread(target=pay)
    payer.start()
    ran = run(f"{ASK} --concurrency 2 --on-empty wait\nLabel: {{{{text}}}}")
    done.set()
    payer.join()

    paid = [request for request in account.requests if request.status == 200 and request.body]
    assert ran.error is None
    assert "Waited" in ran.text
    assert len(paid) == 30
    assert shell.user_ns["out"]["error"].isna().all()


def test_a_budget_ends_it(run: Run, shell: Any) -> None:
    """A budget is spent up to its end; what there is is kept, and another run goes on."""
    run(f"{ASK} --limit 2\nFirst: {{{{text}}}}")  # so that it is known what an answer takes
    run(FRAME.replace("30", "90"))
    source = f"{ASK} --budget 0.0012\nLabel: {{{{text}}}}"

    ran = run(source)
    first = int(shell.user_ns["out"]["error"].isna().sum())
    run(source)
    second = int(shell.user_ns["out"]["error"].isna().sum())

    assert isinstance(ran.error, OverLimit)
    assert 0 < first < second
    assert "limit reached · 90 rows" in ran.text
    assert "Each run has its budget anew, and pays for the missing rows alone" in ran.text


def test_a_failing_row_fails_alone(run: Run, account: Sandbox) -> None:
    """Rows that fail by themselves are counted by kind, and the cell succeeds."""
    account.script(400)

    ran = run(f"{ASK} --limit 3 --concurrency 1\nLabel: {{{{text}}}}")

    assert ran.error is None
    assert "2 asked, 1 failed (column error)" in ran.text
    assert "Failed: 1 × " in ran.text


# Before it begins


def test_a_dry_run_sends_nothing(run: Run, shell: Any, account: Sandbox) -> None:
    """The forecast tells rows, cost and the first question; nothing is sent, nothing bound."""
    run(f"{ASK} --limit 2\nLabel: {{{{text}}}}")
    sent = len(asked(account))
    del shell.user_ns["out"]

    ran = run(f"{ASK} --dry-run\nLabel: {{{{text}}}}")

    assert ran.error is None
    assert len(asked(account)) == sent
    assert "out" not in shell.user_ns
    assert "30: 2 answered earlier, 28 to ask" in ran.text
    assert "Nothing was sent." in ran.text
    assert "Label: item 0" in ran.text


def test_nobody_there_is_told_and_not_asked(run: Run, shell: Any, account: Sandbox) -> None:
    """Where the money may not do and nobody can answer, a line says so and it goes on."""
    run(f"{ASK} --limit 8\nFirst: {{{{text}}}}")
    account.balance = Decimal("0.0001")
    shell.run_cell("%deepseek balance")

    ran = run(f"{ASK} --on-empty raise\nLabel: {{{{text}}}}")

    assert "At worst the balance covers none of 30 rows." in ran.text
    assert isinstance(ran.error, InsufficientBalance)


# One question with a schema


def test_one_question_with_a_schema(run: Run, shell: Any, account: Sandbox) -> None:
    """The model is asked for by its schema, and -o gets an instance of it."""
    run(SCHEMA)

    ran = run("%%deepseek --schema Label -o label -t off\nLabel this.")

    body = account.requests[-1].body
    assert ran.error is None
    assert type(shell.user_ns["label"]).__name__ == "Label"
    assert body is not None
    assert body["response_format"] == {"type": "json_object"}
    assert '"topic"' in str(body["messages"][0]["content"])


def test_an_answer_that_does_not_fit(run: Run, shell: Any, account: Sandbox) -> None:
    """It is shown, the cell fails in one line, and nothing is bound."""
    run(SCHEMA)
    account.script(Reply('{"topic": "weather"}'))

    ran = run("%%deepseek --schema Label --no-repair -o label -t off\nLabel this.")

    assert type(ran.error).__name__ == "UnusableAnswer"
    assert "Label" in str(ran.error)
    assert "score" in str(ran.error)
    assert "weather" in ran.text
    assert "not usable" in ran.text
    assert "label" not in shell.user_ns


# Real kernels


@pytest.mark.kernel
def test_a_notebook_keeps_the_summary_alone(
    kernel: Kernels, account: Sandbox, tmp_path: Path
) -> None:
    """Without a page one output stands there, with its cost, and no widget."""
    account.balance = Decimal(50)  # no warning of a low balance beside it

    ran = kernel.run([LOAD, FRAME, f"{ASK}\nLabel: {{{{text}}}}", "print(len(out))"])

    (output,) = ran.notebook.cells[2]["outputs"]
    saved = tmp_path / "saved.ipynb"
    nbformat.write(ran.notebook, saved)
    (stamp,) = stamps.of_file(saved).stamps
    assert ran.error is None
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert "30 rows: 30 asked" in output["data"]["text/plain"]
    assert stamp.cost == account.billed
    assert stamp.model == "deepseek-flash"
    assert "30" in ran.text(3)


@pytest.mark.kernel
@pytest.mark.parametrize(("said", "goes_on"), [("n", False), ("y", True)])
def test_somebody_is_asked(kernel: Kernels, account: Sandbox, said: str, goes_on: bool) -> None:
    """Where the money may not do, whoever sits in front decides; n sends nothing."""
    client, shown, prompts = kernel.start(), list[dict[str, Any]](), list[str]()

    def answer(message: dict[str, Any]) -> None:
        prompts.append(message["content"]["prompt"])
        client.input(said)

    def run_cell(source: str) -> dict[str, Any]:
        reply: dict[str, Any] = client.execute_interactive(
            source, timeout=60, allow_stdin=True, stdin_hook=answer, output_hook=shown.append
        )
        return dict(reply["content"])

    for source in (LOAD, FRAME, f"{ASK} --limit 8\nFirst: {{{{text}}}}"):
        assert run_cell(source)["status"] == "ok"
    account.balance = Decimal("0.0002")
    run_cell("%deepseek balance")
    sent = len(asked(account))
    reply = run_cell(f"{ASK}\nLabel: {{{{text}}}}")

    assert len(prompts) == 1
    assert prompts[0].startswith("At worst the balance covers none of 30 rows.")
    assert prompts[0].endswith("[Y/n] ")
    assert reply["ename"] == ("InsufficientBalance" if goes_on else "Interrupted")
    assert len(reply["traceback"]) == 1
    assert (len(asked(account)) > sent) is goes_on


@pytest.mark.kernel
def test_an_interrupt_keeps_what_has_arrived(kernel: Kernels, account: Sandbox) -> None:
    """Stop ends the cell in one line; what is under way arrives, and the frame is bound."""
    client = kernel.start()
    for source in (LOAD, FRAME):
        client.execute_interactive(source, timeout=60)
    account.change(latency=0.3)

    message = client.execute(
        f"{ASK} --concurrency 3\nLabel: {{{{text}}}}", allow_stdin=False, stop_on_error=False
    )
    pause = threading.Event()
    while len([one for one in account.requests if one.status == 200 and one.body]) < 6:
        assert not pause.wait(0.02)
    client.control_channel.send(client.session.msg("interrupt_request", content={}))
    reply = client.get_shell_msg(timeout=60)
    found = client.execute_interactive(
        "",
        silent=True,
        user_expressions={"n": "int(out['error'].isna().sum())", "rows": "len(out)"},
        timeout=60,
    )["content"]["user_expressions"]

    assert reply["parent_header"]["msg_id"] == message
    assert (reply["content"]["ename"], len(reply["content"]["traceback"])) == ("Interrupted", 1)
    answers = int(found["n"]["data"]["text/plain"])
    assert found["rows"]["data"]["text/plain"] == "30"
    assert 0 < answers < 30
    assert answers == len([one for one in account.requests if one.status == 200 and one.body])
