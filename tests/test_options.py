from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_magic.errors import InvalidOption
from deepseek_magic.options import Options, complete, help_text, parse

# The line


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("", Options()),
        ("   ", Options()),
        ("-m pro", Options(model="pro")),
        ("--model pro", Options(model="pro")),
        ("--model=pro", Options(model="pro")),
        ("-m=pro", Options(model="pro")),
        ("-m some-relay/DeepSeek-V4", Options(model="some-relay/DeepSeek-V4")),
        ("-t max", Options(think="max")),
        ("--think off", Options(think="off")),
        ("-s 'be brief'", Options(system="be brief")),
        ('-s "don\'t say #1"', Options(system="don't say #1")),
        ('-s "say \\"hi\\""', Options(system='say "hi"')),
        ("--system {{x}}", Options(system="{{x}}")),
        ("-s ''", Options(system="")),
        ("-s #1", Options(system="#1")),
        ("-s '- be brief'", Options(system="- be brief")),
        ("-s '--be brief'", Options(system="--be brief")),
        ("--system=-m", Options(system="-m")),
        ("--temperature 0", Options(temperature=0.0)),
        ("--temperature 1.5", Options(temperature=1.5)),
        ("--temperature=2", Options(temperature=2.0)),
        ("--top-p 0.95", Options(top_p=0.95)),
        ("--top-p 1", Options(top_p=1.0)),
        ("--max-tokens 1", Options(max_tokens=1)),
        ("--max-tokens 393216", Options(max_tokens=393216)),
        ("--stop END", Options(stop=("END",))),
        (r"--stop '\n\n'", Options(stop=("\n\n",))),
        (r"--stop \n", Options(stop=("\n",))),
        (r'--stop "\t" --stop "\\\\n" --stop "a\d"', Options(stop=("\t", "\\n", "a\\d"))),
        ("--stop --- --stop=-- --stop -1", Options(stop=("---", "--", "-1"))),
        ("-o answer", Options(out="answer")),
        ("--out ﬁt", Options(out="fit")),
        ("--json --raw", Options(json=True, raw=True)),
        ("--on-empty raise", Options(on_empty="raise")),
        ("--on-empty wait", Options(on_empty="wait")),
        ("--on-empty=notice", Options(on_empty="notice")),
        ("--budget 0.50", Options(budget=Decimal("0.50"))),
        ("--budget=12", Options(budget=Decimal(12))),
        ("--dry-run --off-peak", Options(dry_run=True, off_peak=True)),
        ("--anyway", Options(anyway=True)),
        ("--each df", Options(each="df")),
        ("--each df.head(20) -o out", Options(each="df.head(20)", out="out")),
        ("--each=df[0:3]", Options(each="df[0:3]")),
        ("""--each "df[df.lang == 'de']" """, Options(each="df[df.lang == 'de']")),
        ("--each rows.csv --column label", Options(each="rows.csv", column="label")),
        ("--each df --column 'two words'", Options(each="df", column="two words")),
        ("--each df --limit 5 --concurrency 64", Options(each="df", limit=5, concurrency=64)),
        ("--fresh --each df", Options(each="df", fresh=True)),
        ("--each df --schema Label --json", Options(each="df", schema="Label", json=True)),
        ("--schema models.Label", Options(schema="models.Label")),
        ("-h", Options(help=True)),
        ("--help", Options(help=True)),
        ("-m --help", Options(help=True)),
        (
            "-m pro -t low --json -o x",
            Options(model="pro", think="low", json=True, out="x"),
        ),
    ],
)
def test_a_right_line_becomes_its_options(line: str, options: Options) -> None:
    """Each option sets its own field, and what is not given is None."""
    assert parse(line) == options


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--modle pro", "There is no option --modle. Did you mean --model?"),
        ("--column label", "--column goes only with --each DATA"),
        ("--limit 5", "--limit goes only with --each DATA"),
        ("--concurrency 5", "--concurrency goes only with --each DATA"),
        ("--fresh --cache", "--fresh asks anew and --cache does not"),
        ("--each df --cache", "leave --cache out"),
        ("--code --json", "--code does not go with --json"),
        ("--each df --raw", "--raw with --each would ask the same of every row"),
        ("--each df --schema Label --column x", "--column does not go with --schema"),
        ("--each ''", "--each needs a value, and not an empty one: --each df."),
        ("--schema ' '", "--schema needs a value, and not an empty one: --schema Label."),
        ("--each df --column ''", "--column takes the name of a column"),
        ("--each df --limit 0", "--limit takes a whole number from 1 to"),
        ("--each df --limit 2.5", "--limit takes a whole number from 1 to"),
        ("--each df --concurrency 0", "--concurrency takes a whole number from 1 to 10000"),
        ("--each df[df.lang == 'de']", """goes in quotes: --each "df[df.lang == 'de']"."""),
        ("--each df --each ef", "--each is given twice"),
        ("--temp 1", "There is no option --temp. Did you mean --temperature?"),
        ("--max_tokens 5", "There is no option --max_tokens. Did you mean --max-tokens?"),
        ("--mod pro", "There is no option --mod. Did you mean --model?"),
        ("-model pro", "There is no option -model. Did you mean --model?"),
        (r"-stop \n", "There is no option -stop. Did you mean --stop?"),
        ("-mpro", "There is no option -mpro. Did you mean -m pro?"),
        ("—model pro", "There is no option —model. Did you mean --model?"),
        ("-M pro", "There is no option -M. Did you mean -m?"),
        ("--zzz", "There is no option --zzz. Nothing"),
        ("-m", "-m needs a value"),
        ("-m --json", "-m needs a value"),
        ("--think", "--think needs a value: off, low, high, max."),
        ("-s --json", '-s needs a value, -s TEXT. For "--json" itself: -s="--json".'),
        ("--json=yes", '--json takes no value, and "yes" was given.'),
        (
            "-t hihg",
            '-t takes off, low, high or max, and "hihg" is none of them. Did you mean high?',
        ),
        (
            "--think none",
            '--think takes off, low, high or max, and "none" is none of them. Nothing',
        ),
        ("--on-empty rais", "Did you mean raise?"),
        ("--on-empty never", "--on-empty takes notice, wait or raise"),
        ("--temperature hot", '--temperature takes a number from 0 to 2, and not "hot".'),
        ("--temperature 2.1", '--temperature takes a number from 0 to 2, and not "2.1".'),
        ("--temperature -1", '--temperature takes a number from 0 to 2, and not "-1".'),
        ("--temperature nan", "--temperature takes a number from 0 to 2"),
        ("--budget", "--budget needs a value, --budget AMOUNT."),
        ("--budget 0", 'such as 0.50, and not "0".'),
        ("--budget -1", "--budget takes an amount in the account's currency"),
        ("--budget nan", 'and not "nan".'),
        ("--budget inf", 'and not "inf".'),
        ("--budget 1CNY", 'and not "1CNY".'),
        ("--budget much", 'and not "much".'),
        ("--budget 1 --budget 2", "--budget is given twice"),
        ("--budgt 1", "Did you mean --budget?"),
        ("--dry-run=yes", '--dry-run takes no value, and "yes" was given.'),
        ("--dryrun", "Did you mean --dry-run?"),
        ("--offpeak", "Did you mean --off-peak?"),
        ("--any-way", "Did you mean --anyway?"),
        ("--top-p 0", '--top-p takes a number above 0 and up to 1, and not "0".'),
        ("--top-p 1.01", "--top-p takes a number above 0"),
        ("--max-tokens 0", '--max-tokens takes a whole number from 1 to 393216, and not "0".'),
        ("--max-tokens 393217", "from 1 to 393216"),
        ("--max-tokens 1.5", "--max-tokens takes a whole number"),
        ("--stop ''", "--stop takes the text to stop at"),
        ("--stop x " * 17, "--stop is given 17 times; the API takes 16."),
        ("-m ''", "-m takes the name of a model"),
        ("-m 'two words'", "-m takes the name of a model"),
        ("-o 2x", '-o takes a name of Python to bind the answer to, and "2x" is none.'),
        ("-o my-answer", "Did you mean my_answer?"),
        ("-o class", "Did you mean class_?"),
        ("-o a.b", '"a.b" is none'),
        ("-m a --model b", "--model is given twice"),
        ("--json --json", "--json is given twice"),
        ("-s don't", "A quotation mark is not closed"),
        ("-s x\\", "The line ends in a backslash"),
        ("why?", 'holds options only, and "why?" is none; put the question in the lines below'),
        ("-m pro why", '"why" is none; put the question'),
        ("-s be brief", '"brief" is none; a text with spaces goes in quotes'),
        ("-- why", "holds options only"),
    ],
)
def test_a_wrong_line_is_one_clear_line(line: str, says: str) -> None:
    """What is wrong is named with what is right, what was not done, and where to look."""
    with pytest.raises(InvalidOption) as caught:
        parse(line)

    message = str(caught.value)
    assert says in message
    assert message.endswith("Nothing was sent. All options: %%deepseek -h")
    assert "\n" not in message


def test_a_suggested_way_out_works() -> None:
    """What an error tells to write instead is understood."""
    assert parse('-s="--json"') == Options(system="--json")


@pytest.mark.parametrize("line", ["{}", "--{}", "--json={}", "-t {}", "-o {}!", "--temperature {}"])
def test_an_error_repeats_no_long_value(line: str) -> None:
    """At most forty characters of what was written come back in an error."""
    with pytest.raises(InvalidOption) as caught:
        parse(line.format("y" * 5000))

    assert "y" * 41 not in str(caught.value)
    assert len(str(caught.value)) < 250


@given(
    st.lists(
        st.one_of(
            st.text(),
            st.sampled_from(["-m", "--stop", "-s", "--json", "=", "'", '"', "\\", "--", "-", "-1"]),
        )
    ).map(" ".join)
)
@settings(deadline=None)
def test_any_line_is_understood_or_refused_in_one_line(line: str) -> None:
    """Whatever is typed, there are options or an `InvalidOption` of one printable line."""
    try:
        options = parse(line)
    except InvalidOption as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert isinstance(options, Options)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=16))
def test_a_quoted_stop_arrives_as_it_was_meant(stops: list[str]) -> None:
    """Any text can be a stop, once its backslashes are doubled and it stands in quotes."""
    doubled = [stop.replace("\\", "\\\\").replace("'", "'\"'\"'") for stop in stops]

    line = " ".join(f"--stop='{stop}'" for stop in doubled)

    assert parse(line).stop == tuple(stops)


# Help and completion


def test_the_help_tells_every_option() -> None:
    """Each field of `Options` has its entry, and no line is longer than 80 characters."""
    text = help_text()

    for name in Options.__slots__:
        assert f"--{name.replace('_', '-')}" in text
    assert "{{expression}}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_examples_of_the_help_are_right() -> None:
    """The lines that the help shows are understood."""
    lines = re.findall(r"^  %%deepseek(.*)$", help_text(), re.MULTILINE)

    options = [parse(line) for line in lines]

    assert len(options) == 8
    assert options[2].each == "reviews"
    assert options[3].dry_run
    assert options[4].json
    assert options[5].image == ("fig", "photos/site.jpg")
    assert options[6].code
    assert options[7].chat == "plot"


@pytest.mark.parametrize(
    ("line", "token", "names"),
    [
        ("%%deepseek --m", "--m", ["--model", "--max-tokens"]),
        ("--o", "--o", ["--out", "--on-empty", "--off-peak"]),
        ("--json --j", "--j", []),
        ("--stop x --st", "--st", ["--stop"]),
        ("%%deepseek -m f", "f", ["flash"]),
        ("-m ", "", ["flash", "pro", "deepseek-flash", "deepseek-v4-pro"]),
        ("--model=d", "d", ["deepseek-flash", "deepseek-v4-pro"]),
        ("--model=d", "--model=d", ["--model=deepseek-flash", "--model=deepseek-v4-pro"]),
        ("--think ", "", ["off", "low", "high", "max"]),
        ("--on-empty=", "", ["notice", "wait", "raise"]),
        ("-o ", "", []),
        ("-s ", "", []),
        ('-s "a -', "-", []),
        ("why", "why", []),
    ],
)
def test_tab_completes_options_and_their_values(line: str, token: str, names: list[str]) -> None:
    """Tab offers what can stand there, and nothing twice."""
    assert complete(line, token) == names


def test_tab_after_a_dash_offers_all_options() -> None:
    """A dash alone shows the whole list, short and long."""
    offered = complete("%%deepseek -", "-")

    assert {"-m", "--model", "--help", "--stop"} <= set(offered)
    assert len(offered) == len(set(offered)) == 33


def test_reading_and_filling_in_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors are raised; nothing is written beside them."""
    for line in ("-h", "--modle", "why", "-s 'x"):
        try:
            parse(line)
        except InvalidOption:
            continue

    assert capsys.readouterr() == ("", "")
