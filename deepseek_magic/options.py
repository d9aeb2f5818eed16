"""The line of a `%%deepseek` cell as `Options`.

The line is read by a loop over one table instead of `argparse`, which has no
word of its own for half of what goes wrong here: it takes `-stop x` for
`-s top`, `--stop ---` for an option without a value, the last of two models
for the one that is meant, and its messages change with Python's version.
"""

from __future__ import annotations

import keyword
import math
import re
import shlex
import unicodedata
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .errors import InvalidOption, nearest, one_line
from .wire import SHORT_NAMES, THINK_LEVELS, Think, amount
from .words import later, listed, sentences, t, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from decimal import Decimal

OnEmpty = Literal["notice", "wait", "raise"]


@dataclass(frozen=True, slots=True)
class Options:
    """What one cell asks for. None means that the line does not say."""

    model: str | None = None
    think: Think | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    out: str | None = None
    json: bool = False
    schema: str | None = None
    chat: str | None = None
    code: bool = False
    cache: bool = False
    no_repair: bool = False
    raw: bool = False
    each: str | None = None
    column: str | None = None
    limit: int | None = None
    concurrency: int | None = None
    fresh: bool = False
    on_empty: OnEmpty | None = None
    budget: Decimal | None = None
    dry_run: bool = False
    off_peak: bool = False
    anyway: bool = False
    help: bool = False


# Reading values


def _refusal(what: str, hint: str = "") -> InvalidOption:
    return InvalidOption(sentences(what, hint, t("Nothing was sent. All options: %%deepseek -h")))


def _meant(word: str | None) -> str:
    return t("Did you mean {word}?", word=one_line(word, 40)) if word else ""


def _choice(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text in choices:
        return text
    what = t(
        '{name} takes {most} or {last}, and "{text}" is none of them.',
        name=name,
        most=listed(choices[:-1]),
        last=choices[-1],
        text=one_line(text, 40),
    )
    raise _refusal(what, _meant(nearest(text, choices)))


def _model(name: str, text: str) -> str:
    if not text or any(c.isspace() for c in text):
        raise _refusal(
            t(
                '{name} takes the name of a model, such as pro; "{text}" is none.',
                name=name,
                text=one_line(text, 40),
            )
        )
    return text


def _number(name: str, text: str, kind: type[float], low: float, high: float) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if low <= value <= high and not (name == "--top-p" and value == 0):
        return value
    raise _refusal(t(_range(name, kind), name=name, low=low, high=high, text=one_line(text, 40)))


def _range(name: str, kind: type[float]) -> str:
    if name == "--top-p":
        return later('{name} takes a number above 0 and up to {high:.7g}, and not "{text}".')
    if kind is int:
        return later('{name} takes a whole number from {low:g} to {high:.7g}, and not "{text}".')
    return later('{name} takes a number from {low:g} to {high:.7g}, and not "{text}".')


def _stop(name: str, text: str) -> str:
    if not text:
        raise _refusal(t("{name} takes the text to stop at, and not an empty one.", name=name))
    marks = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda found: marks[found[1]], text)


def _name(name: str, text: str) -> str:
    # Python compares names in this form, so the one bound must have it too.
    normal = unicodedata.normalize("NFKC", text)
    if normal.isidentifier() and not keyword.iskeyword(normal):
        return normal
    legal = re.sub(r"\W", "_", normal)
    legal = f"{legal}_" if keyword.iskeyword(legal) else legal
    what = t(
        '{name} takes a name of Python to bind the answer to, and "{text}" is none.',
        name=name,
        text=one_line(text, 40),
    )
    raise _refusal(what, _meant(legal if legal.isidentifier() else None))


def _expression(name: str, text: str) -> str:
    if not text.strip():
        example = f"{name} {_EXAMPLES[name]}"
        what = t(
            "{name} needs a value, and not an empty one: {example}.", name=name, example=example
        )
        raise _refusal(what)
    return text.strip()


CHAT_NAME = 80
"""Characters of the name of a conversation."""


def is_chat_name(text: str) -> bool:
    """Tell whether *text* can name a conversation; an empty one is the notebook's own."""
    return text.isprintable() and len(text) <= CHAT_NAME


def _chat(name: str, text: str) -> str:
    if not is_chat_name(text.strip()):
        raise _refusal(
            t(
                "{name} takes the name of a conversation, of at most {most} characters on one "
                'line, and not "{text}".',
                name=name,
                most=CHAT_NAME,
                text=one_line(text, 40),
            )
        )
    return text.strip()


def _column(name: str, text: str) -> str:
    if not text.strip() or not text.isprintable():
        given = one_line(repr(text), 40)
        what = t("{name} takes the name of a column, and not {given}.", name=name, given=given)
        raise _refusal(what)
    return text.strip()


def _amount(name: str, text: str) -> Decimal:
    found = amount(text)
    if found is None or not found:
        raise _refusal(
            t(
                "{name} takes an amount in the account's currency, such as 0.50, and not "
                '"{text}".',
                name=name,
                text=one_line(text, 40),
            )
        )
    return found


# The table


@dataclass(frozen=True, slots=True)
class _Option:
    """One option: *read* makes its value of the text, None for a flag.

    A *bare* one may stand without a text, which is an empty one then.
    """

    names: tuple[str, ...]
    field: str
    help: str
    takes: str = ""
    read: Callable[[str, str], Any] | None = None
    choices: tuple[str, ...] = ()
    is_text: bool = False
    each_only: bool = False
    repeats: bool = False
    bare: bool = False

    @property
    def name(self) -> str:
        return self.names[-1]


_EXAMPLES = {"--each": "df", "--schema": "Label", "--image": "fig"}
_EMPTY_CHOICES: tuple[OnEmpty, ...] = ("notice", "wait", "raise")
_MOST_STOPS = 16
_CLASHES = (
    (
        {"fresh", "cache"},
        later("--fresh asks anew and --cache does not: one of them can be given."),
    ),
    (
        {"code", "each"},
        later("--code does not go with --each, whose answer is no text with code in it."),
    ),
    (
        {"code", "json"},
        later("--code does not go with --json, whose answer is no text with code in it."),
    ),
    (
        {"code", "schema"},
        later("--code does not go with --schema, whose answer is no text with code in it."),
    ),
    (
        {"each", "cache"},
        later("--each takes rows answered earlier from the ledger by itself; leave --cache out."),
    ),
    (
        {"each", "chat"},
        later(
            "--chat does not go with --each: rows are asked beside each other, and none of them "
            "has the answers before it. For one after the other, in a loop: session.ask(question, "
            'chat="name").'
        ),
    ),
    (
        {"each", "image"},
        later(
            "--image does not go with --each: there is no picture per row yet. Ask in a loop: "
            "[session.ask(question, images=[one]) for one in pictures]."
        ),
    ),
    (
        {"each", "raw"},
        later(
            "--raw with --each would ask the same of every row. Leave --raw out; two braces as "
            "they stand: {{'{{'}}."
        ),
    ),
    (
        {"each", "column", "schema"},
        later("--column does not go with --schema, which makes a column for each field instead."),
    ),
)
"""Options that do not go together, and why."""

_OPTIONS = (
    _Option(
        ("-m", "--model"),
        "model",
        later(
            "Asks this model: flash (deepseek-flash), pro (deepseek-v4-pro) or any other name that "
            "the API knows."
        ),
        "NAME",
        _model,
        (*SHORT_NAMES, *SHORT_NAMES.values()),
    ),
    _Option(
        ("-t", "--think"),
        "think",
        later("Has the model think this much before it answers: off, low, high or max."),
        "LEVEL",
        lambda name, text: _choice(name, text, THINK_LEVELS),
        THINK_LEVELS,
    ),
    _Option(
        ("-s", "--system"),
        "system",
        later("Puts TEXT before the prompt as the system message; {{ }} in it stays as it is."),
        "TEXT",
        lambda _, text: text,
        is_text=True,
    ),
    _Option(
        ("--temperature",),
        "temperature",
        later(
            "Makes answers more even (towards 0) or more varied (up to 2); it counts only with "
            "--think off."
        ),
        "NUMBER",
        lambda name, text: _number(name, text, float, 0, 2),
    ),
    _Option(
        ("--top-p",),
        "top_p",
        later(
            "Lets the model choose among the likeliest words only, up to this share (above 0, to "
            "1)."
        ),
        "NUMBER",
        lambda name, text: _number(name, text, float, 0, 1),
    ),
    _Option(
        ("--max-tokens",),
        "max_tokens",
        later("Ends the answer, its thinking included, after this many tokens (1 to 393216)."),
        "NUMBER",
        lambda name, text: int(_number(name, text, int, 1, 393_216)),
    ),
    _Option(
        ("--stop",),
        "stop",
        later(
            r"Ends the answer before TEXT; \n and \t are a new line and a tab, and the option may "
            "be given up to 16 times."
        ),
        "TEXT",
        _stop,
        is_text=True,
        repeats=True,
    ),
    _Option(
        ("--image",),
        "image",
        later(
            "Sends a picture along: a figure, a PIL image, bytes, any expression of the notebook "
            "(in quotes where it has blanks), a file (.png, .jpg, .webp, .gif) or an https "
            "address; the option may be given several times. flash reads pictures, pro does not."
        ),
        "VALUE",
        _expression,
        is_text=True,
        repeats=True,
    ),
    _Option(
        ("-o", "--out"),
        "out",
        later("Binds the answer to NAME, for the cells that follow."),
        "NAME",
        _name,
    ),
    _Option(
        ("--json",),
        "json",
        later("Asks for JSON and gives it parsed; say in the prompt which JSON you want."),
    ),
    _Option(
        ("--schema",),
        "schema",
        later(
            "Asks for JSON that fits MODEL, and checks the answer: a Pydantic model of the "
            "notebook, list[Model], a dataclass, another type, or a JSON schema as a dict; in "
            "quotes where it has blanks. -o NAME gets an instance, of a list of models a "
            "DataFrame; --each a column for each field."
        ),
        "MODEL",
        _expression,
    ),
    _Option(
        ("--no-repair",),
        "no_repair",
        later(
            "Fails at once where the answer is not the JSON asked for, and does not send it back "
            "once to be put right."
        ),
    ),
    _Option(
        ("-c", "--chat"),
        "chat",
        later(
            "Goes on with the conversation NAME, or with the notebook's own: the turns before are "
            "sent along. Running the cell again replaces its turn; those of other cells stay."
        ),
        "[NAME]",
        _chat,
        bare=True,
    ),
    _Option(
        ("--code",),
        "code",
        later(
            "Puts the first block of code of the answer into a new cell below, and never runs it."
        ),
    ),
    _Option(
        ("--cache",),
        "cache",
        later(
            "Shows an answer that the very same question had before, from the ledger and for "
            "nothing; asks where there is none."
        ),
    ),
    _Option(("--raw",), "raw", later("Sends the cell as it stands, with every {{ }} in it.")),
    _Option(
        ("--each",),
        "each",
        later(
            "Asks about each row of DATA, many at once: a DataFrame, a list, any expression of the "
            "notebook (in quotes where it has blanks), or a file (.csv, .tsv, .parquet). "
            "{{column}} in the prompt is the row's value. -o NAME gets a DataFrame with answer, "
            "cost and error of each row; equal rows are asked once, rows answered earlier cost "
            "nothing."
        ),
        "DATA",
        _expression,
        is_text=True,
    ),
    _Option(
        ("--column",),
        "column",
        later("Names the column that the answers go into; answer when absent."),
        "NAME",
        _column,
        each_only=True,
    ),
    _Option(
        ("--limit",),
        "limit",
        later("Asks about the first NUMBER rows only, as a trial."),
        "NUMBER",
        lambda name, text: int(_number(name, text, int, 1, 1e9)),
        each_only=True,
    ),
    _Option(
        ("--concurrency",),
        "concurrency",
        later(
            "Has at most NUMBER requests under way at once; as many as the account allows when "
            "absent."
        ),
        "NUMBER",
        lambda name, text: int(_number(name, text, int, 1, 10_000)),
        each_only=True,
    ),
    _Option(
        ("--fresh",),
        "fresh",
        later(
            "Asks anew, and pays anew, also for what was answered earlier: rows of --each, and "
            "questions of a notebook that is set to --cache."
        ),
    ),
    _Option(
        ("--on-empty",),
        "on_empty",
        later(
            "When the money is gone: notice shows what to do and buttons to run the cell again; "
            "wait blocks until it was topped up and goes on by itself; raise only raises "
            "InsufficientBalance, for code that handles it."
        ),
        "ACTION",
        lambda name, text: _choice(name, text, _EMPTY_CHOICES),
        _EMPTY_CHOICES,
    ),
    _Option(
        ("--budget",),
        "budget",
        later(
            "Lets this cell spend no more than AMOUNT, in the account's currency; without "
            "--max-tokens it bounds the answer's length, and where that would cut a usual answer "
            "nothing is sent."
        ),
        "AMOUNT",
        _amount,
    ),
    _Option(
        ("--dry-run",),
        "dry_run",
        later(
            "Shows the request, its tokens, what it will cost and what the balance covers; sends "
            "nothing."
        ),
    ),
    _Option(
        ("--off-peak",),
        "off_peak",
        later("Waits for the cheaper hours, then sends; interrupting it ends the waiting."),
    ),
    _Option(
        ("--anyway",),
        "anyway",
        later(
            "Sends also where a check says no: the balance looks too small, or a limit of yours "
            "would be passed."
        ),
    ),
    _Option(("-h", "--help"), "help", later("Shows this text and sends nothing.")),
)
_NAMES = tuple(name for option in _OPTIONS for name in option.names)


def _find(name: str) -> _Option | None:
    return next((option for option in _OPTIONS if name in option.names), None)


# The line


def parse(line: str) -> Options:
    """Read the options of a cell's first line; what cannot be used is an `InvalidOption`."""
    words = _words(line)
    if "-h" in words or "--help" in words:
        return Options(help=True)
    values: dict[str, Any] = {}
    for option, name, text in _given(words):
        if option.field in values and not option.repeats:
            raise _refusal(t("{name} is given twice; it can be given once.", name=name))
        value = True if option.read is None else option.read(name, text)
        before = values.get(option.field, ())
        values[option.field] = (*before, value) if option.repeats else value
    if len(values.get("stop", ())) > _MOST_STOPS:
        number, most = len(values["stop"]), _MOST_STOPS
        what = t("--stop is given {number} times; the API takes {most}.", number=number, most=most)
        raise _refusal(what)
    if (clash := _clash(values)) is not None:
        raise _refusal(clash)
    return Options(**values)


def _clash(values: dict[str, Any]) -> str | None:
    """Say which options do not go together."""
    if "no_repair" in values and not {"json", "schema"} & set(values):
        return t("--no-repair goes only with --json or --schema MODEL, which ask for JSON.")
    if "each" not in values:
        alone = next((one for one in _OPTIONS if one.each_only and one.field in values), None)
        if alone is not None:
            return t(
                "{name} goes only with --each DATA, which asks about each row.", name=alone.name
            )
    return next((t(why) for fields, why in _CLASHES if fields <= values.keys()), None)


# Quoted text and escaped characters, or a backslash that `shlex` would drop from an unquoted \n.
_BACKSLASH = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*"|\\[^nt])|\\(?=[nt])""")


def _words(line: str) -> list[str]:
    kept = _BACKSLASH.sub(lambda found: found[1] or r"\\", line)
    try:
        return shlex.split(kept, comments=False, posix=True)
    except ValueError as error:
        if "escape" in str(error):
            raise _refusal(t("The line ends in a backslash, with nothing after it.")) from None
        raise _refusal(
            t(
                "A quotation mark is not closed in this line; "
                'write "don\'t" for a text with one in it.'
            )
        ) from None


def _looks_like_option(word: str) -> bool:
    """Tell `--stop` and `-s` from values such as `-1`, `---` or `- be brief`."""
    return re.fullmatch(r"[-–—]{1,2}[^\W\d][\w-]*(=.*)?", word, re.DOTALL) is not None


def _given(words: Iterable[str]) -> Iterator[tuple[_Option, str, str]]:
    """Pair each option with the name it was called by and its text, "" for a flag."""
    left, before = deque(words), None
    while left:
        word = left.popleft()
        name, equals, text = word.partition("=")
        option = _find(name)
        if option is None:
            raise _unknown(word, before)
        if option.read is None and equals:
            given = one_line(text, 40)
            raise _refusal(
                t('{name} takes no value, and "{given}" was given.', name=name, given=given)
            )
        if option.read is not None and not equals:
            missing = not left or _looks_like_option(left[0])
            if missing and not option.bare:
                raise _no_value(option, name, left[0] if left else "")
            text = "" if missing else left.popleft()
        yield option, name, text
        before = option


def _no_value(option: _Option, name: str, after: str) -> InvalidOption:
    if option.choices:
        choices = listed(option.choices)
        what = t("{name} needs a value: {choices}.", name=name, choices=choices)
    else:
        what = t("{name} needs a value, {name} {takes}.", name=name, takes=option.takes)
    hint = ""
    if after and option.is_text:
        itself = one_line(after, 40)
        hint = t('For "{itself}" itself: {name}="{itself}".', itself=itself, name=name)
    return _refusal(what, hint)


def _unknown(word: str, before: _Option | None) -> InvalidOption:
    name = word.partition("=")[0]
    if _looks_like_option(word):
        glued = _find(name[:2]) if f"-{name}" not in _NAMES else None  # -mpro, but not -model
        is_glued = glued is not None and glued.read is not None and len(name) > len("-m")
        near = f"{name[:2]} {name[2:]}" if is_glued else nearest(name, _NAMES)
        what = t("There is no option {name}.", name=one_line(name, 40))
        return _refusal(what, _meant(near))
    given = one_line(word, 40)
    if before is None or not before.is_text:
        return _refusal(
            t(
                'The line after %%deepseek holds options only, and "{given}" is none; '
                "put the question in the lines below it.",
                given=given,
            )
        )
    return _refusal(
        t(
            'The line after %%deepseek holds options only, and "{given}" is none; '
            "a text with spaces goes in quotes: {example}.",
            given=given,
            example=f"{before.name} {_quoted(before)}",
        )
    )


def _quoted(option: _Option) -> str:
    examples = {"each": "\"df[df.lang == 'de']\"", "image": '"figures[0]"'}
    return examples.get(option.field) or t('"be brief"')


# Help


_USAGE = later("""\
%%deepseek [options]
the prompt, with {{python expressions}} filled in

Asks DeepSeek; the answer appears below the cell. For one cell an option beats
what %config DeepSeekMagics sets for the notebook.

Options
""")

_PLACEHOLDERS = later("""
Placeholders
  {{expression}} is evaluated in the notebook and its value put in its place:
  text as it stands; a DataFrame or Series as its shape, column types, missing
  counts and first rows; lists, dicts and arrays as much as fits, and a word
  about what is left out. Single braces are plain text, so JSON, LaTeX and code
  need no care. If an expression fails, nothing is sent. With --raw, {{ }} is
  plain text too.

Examples
  %%deepseek
  What stands out in this table? {{df}}

  %%deepseek -m pro -t max -o proof
  Prove that there are infinitely many primes.

  %%deepseek --each reviews -o labelled -t off --max-tokens 5
  Is this review positive or negative? One word. {{text}}

  %%deepseek --dry-run --budget 0.10
  What will this cost? {{df}}

  %%deepseek --json -t off -o people -s "You read names out of letters."
  Give {"names": [...]} as JSON for this letter: {{letters[0]}}

  %%deepseek --image fig --image photos/site.jpg
  What does the plot show, and does the photo fit to it?

  %%deepseek --code --cache
  Write a function that draws the columns of this table. {{df}}

  %%deepseek --chat plot
  And the same with the axes swapped?

An answer that broke off, or was cut at --max-tokens, goes on at the price of
the rest: the button Continue below it, or %deepseek continue.

The account is looked after by the line magic: %deepseek -h
""")


def help_text() -> str:
    """Give what `%%deepseek -h` shows, in lines of at most 80 characters."""
    return t(_USAGE) + "".join(_help_entry(option) for option in _OPTIONS) + t(_PLACEHOLDERS)


def _help_entry(option: _Option) -> str:
    names = f"  {', '.join(option.names)} {option.takes}".rstrip()
    lines = wrapped(t(option.help), 72)
    return names + "\n" + "".join(f"      {line}\n" for line in lines)


# Completion


def complete(line: str, token: str, chats: Sequence[str] = ()) -> list[str]:
    """Give what *token*, the end of *line*, can become: an option or an option's value.

    *line* reaches up to the cursor, with or without `%%deepseek` at its start; *chats* are
    the names of the conversations that there are.
    """
    before = line.removesuffix(token).removeprefix("%%deepseek")
    name, equals, begun = token.rpartition("=")
    if not equals and before.endswith("="):
        before, name, begun = before[:-1], before[:-1].split(" ")[-1], token
    if _is_inside_quotes(before):
        return []
    words = before.split()
    if option := _find(name):
        start = f"{name}=" if equals else ""
        known = _choices(option, chats)
        return [f"{start}{choice}" for choice in known if choice.startswith(begun)]
    if words and (option := _find(words[-1])) and option.read is not None:
        found = [choice for choice in _choices(option, chats) if choice.startswith(token)]
        if found or not option.bare:
            return found
    return [name for name in _unused(words) if name.startswith(token or "--")]


def quoted(name: str) -> str:
    """Write *name* as one word of a line of options: in quotes, unless it is one as it stands."""
    return name if re.fullmatch(r"\w[\w.-]*", name) else shlex.quote(name)


def _choices(option: _Option, chats: Sequence[str]) -> Sequence[str]:
    return [quoted(name) for name in chats] if option.field == "chat" else option.choices


def _is_inside_quotes(text: str) -> bool:
    try:
        shlex.split(text)
    except ValueError:
        return True
    return False


def _unused(words: list[str]) -> Iterator[str]:
    used = {option.field for word in words if (option := _find(word.partition("=")[0]))}
    for option in _OPTIONS:
        if option.field not in used or option.repeats:
            yield from option.names
