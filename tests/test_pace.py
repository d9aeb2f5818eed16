"""How many requests at once: quickly up, down when the API says so, up again after."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepseek_magic.pace import NAMED_SECONDS, START, Pace


def grown(pace: Pace, now: float = 10.0) -> float:
    """Let *pace* come to its full speed; give the moment."""
    assert pace.at_once(now) == pace.most
    return now


def test_full_speed_is_reached_soon() -> None:
    """It begins with some at once, and before a second has gone all are allowed."""
    pace = Pace(2500, 0.0)

    found = [pace.at_once(moment / 10) for moment in range(11)]

    assert found[0] == START
    assert found == sorted(found)
    assert found[-1] == 2500


@pytest.mark.parametrize("most", [1, 3, 64])
def test_few_at_once(most: int) -> None:
    """What the user or the account allows is not passed, from the beginning."""
    pace = Pace(most, 0.0)

    assert [pace.at_once(now) for now in (0.0, 0.1, 100.0)] == [most] * 3


def test_nothing_allowed_is_one() -> None:
    """At least one request may be under way."""
    assert Pace(0, 0.0).at_once(0.0) == 1


def test_a_careful_beginning() -> None:
    """A careful one begins with one request, and goes on when that was answered."""
    pace = Pace(500, 0.0, careful=True)
    before = [pace.at_once(now) for now in (0.0, 60.0)]

    pace.answered(60.0)

    assert before == [1, 1]
    assert pace.at_once(60.0) == START
    assert pace.at_once(70.0) == 500


def test_room() -> None:
    """There is room for as many as are not under way, never for less than none."""
    pace = Pace(100, 0.0)
    now = grown(pace)

    assert [pace.room(now, under_way) for under_way in (0, 40, 100, 200)] == [100, 60, 0, 0]


def test_a_refusal() -> None:
    """After a refusal nothing is sent for a moment, and then fewer at once."""
    pace = Pace(1000, 0.0)
    now = grown(pace)

    pace.refused(now, now - 1, 1000)

    assert pace.room(now, 0) == 0
    assert pace.resumes_at > now
    assert 0 < pace.at_once(now) < 1000
    assert pace.room(pace.resumes_at, 0) > 0


def test_refusals_of_one_moment_count_once() -> None:
    """A thousand refusals of requests that were under way together are one word, not a thousand."""
    pace = Pace(1000, 0.0)
    now = grown(pace)
    pace.refused(now, now - 1, 1000)
    found = (pace.at_once(now), pace.resumes_at)

    for _ in range(999):
        pace.refused(now + 0.1, now - 0.5, 500)

    assert (pace.at_once(now), pace.resumes_at) == found


def test_refusals_one_after_the_other() -> None:
    """Each refusal of a later request lowers the number again, and lengthens the pause."""
    pace = Pace(1000, 0.0)
    now = grown(pace)
    numbers, pauses = [], []

    for _ in range(12):
        pace.refused(now, now - 0.01, pace.at_once(now))
        numbers.append(pace.at_once(now))
        pauses.append(pace.resumes_at - now)
        now = pace.resumes_at + 1

    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] < numbers[0]
    assert all(late > early for early, late in itertools.pairwise(pauses[:6]))
    assert max(pauses) <= 60


def test_an_answer_shortens_the_next_pause() -> None:
    """Once something was answered the next pause is short again."""
    pace = Pace(1000, 0.0)
    now = grown(pace)
    pace.refused(now, now - 0.1, 1000)
    first = pace.resumes_at - now
    for _ in range(4):
        now = pace.resumes_at + 1
        pace.refused(now, now - 0.1, 10)

    pace.answered(now := pace.resumes_at + 1)
    pace.refused(now + 1, now + 0.5, 10)

    assert pace.resumes_at - (now + 1) == pytest.approx(first)


def test_up_again() -> None:
    """With answers it grows again, up to what is allowed and not beyond."""
    pace = Pace(50, 0.0)
    now = grown(pace)
    for _ in range(3):
        now += 10
        pace.refused(now, now - 1, pace.at_once(now))
    low = pace.at_once(now)

    for _ in range(2000):
        pace.answered(now := now + 0.01)

    assert low < 50
    assert pace.at_once(now) == 50


@pytest.mark.parametrize("wait", [0.0, 0.5, 20.0, 120.0, 299.0])
def test_retry_after(wait: float) -> None:
    """The pause that the API asks for is kept, all of it."""
    pace = Pace(10, 0.0)
    now = grown(pace)

    pace.refused(now, now - 1, 10, wait=wait)

    assert pace.resumes_at == now + wait


def test_the_longest_pause_counts() -> None:
    """A later refusal does not shorten a pause that was asked for."""
    pace = Pace(10, 0.0)
    now = grown(pace)
    pace.refused(now, now - 1, 10, wait=30.0)

    pace.refused(now + 1, now - 0.5, 10, wait=2.0)
    pace.refused(now + 2, now + 1.5, 10)

    assert pace.resumes_at >= now + 30.0


def test_a_number_that_is_named() -> None:
    """A number that the API names is kept to while it is fresh, answers or not."""
    pace = Pace(2500, 0.0)
    now = grown(pace)

    pace.refused(now, now - 1, 2500, named=25)
    for _ in range(1000):
        pace.answered(now + 5)
    kept = pace.at_once(now + 5)
    for _ in range(1000):
        pace.answered(now + NAMED_SECONDS + 1)

    assert kept == 25
    assert pace.at_once(now + NAMED_SECONDS + 1) > 25


def test_a_number_that_falls() -> None:
    """Of numbers that are named one after the other the newest counts; none is less than one."""
    pace = Pace(2500, 0.0)
    now = grown(pace)
    found = []

    for named in (7, 5, 0):
        now += 1
        pace.refused(now, now - 0.1, 7, named=named)
        found.append(pace.at_once(now))

    assert found == [7, 5, 1]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answered", "refused", "named", "wait"]),
        st.floats(0, 20),
        st.integers(0, 3000),
    ),
    max_size=60,
)


@given(most=st.integers(1, 3000), careful=st.booleans(), steps=STEPS)
@example(most=32, careful=False, steps=[("named", 0.0, 33), *[("answered", 0.0, 0)] * 9])
@settings(max_examples=150, deadline=None)
def test_it_never_stands_still_and_never_passes(
    most: int, *, careful: bool, steps: list[tuple[str, float, int]]
) -> None:
    """Whatever comes, at least one may go out after the pause, and never more than allowed."""
    pace, now = Pace(most, 0.0, careful=careful), 0.0

    for kind, passed, number in steps:
        now += passed
        sent = now - 0.01
        match kind:
            case "answered":
                pace.answered(now)
            case "refused":
                pace.refused(now, sent, number)
            case "named":
                pace.refused(now, sent, number, named=number)
            case _:
                pace.refused(now, sent, number, wait=float(number))
        assert 1 <= pace.at_once(now) <= most
        assert pace.room(now, 0) <= most
        assert pace.room(max(now, pace.resumes_at), 0) >= 1
