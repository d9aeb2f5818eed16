"""How many requests may be under way: full speed soon, less when the API says so, more again after.

A clock is given with every call, in seconds of one that only goes forward.
"""

from __future__ import annotations

START = 64
DOUBLING = 0.04
"""In so many seconds the requests under way may double, until the first word of a refusal."""
CUT = 0.7
GROWTH = 0.2
"""By so much of itself the number grows while as many answers come as it allows at once."""
NAMED_SECONDS = 30.0
"""So long a number that the API has named is not passed."""
PAUSE = 0.25
"""Seconds without a new request after a refusal; doubled with each one until an answer comes."""
PAUSE_AT_MOST = 60.0


class Pace:
    """The number of requests at once, at *most* so many; *careful* begins with one."""

    def __init__(self, most: int, now: float, *, careful: bool = False) -> None:
        self.most = max(most, 1)
        self._limit = float(self.most)
        self._start = 1 if careful else START
        self._began: float | None = None if careful else now
        self._cut_at = float("-inf")
        self.cuts = 0
        """How often in a row it was cut, without an answer between."""
        self._named, self._named_until = self.most, float("-inf")
        self.resumes_at = float("-inf")
        """Until then nothing may be sent."""

    def at_once(self, now: float) -> int:
        """Give the number of requests that may be under way."""
        if self._began is None:
            return self._start
        doublings = min((now - self._began) / DOUBLING, 24.0)
        return max(1, int(min(self._limit, self._start * 2.0**doublings)))

    def more_at(self, now: float) -> float:
        """Give the moment from which on more may be sent, though nothing has arrived."""
        if now < self.resumes_at:
            return self.resumes_at
        ramps = self._began is not None and self.at_once(now) < int(self._limit)
        return now + DOUBLING if ramps else float("inf")

    def room(self, now: float, under_way: int) -> int:
        """Give the number of requests that may be sent."""
        return 0 if now < self.resumes_at else max(0, self.at_once(now) - under_way)

    def answered(self, now: float) -> None:
        """Take note of an answer."""
        if self._began is None:
            self._began, self._start = now, START
        self.cuts = 0
        most = self._named if now < self._named_until else self.most
        self._limit = max(min(self._limit + GROWTH, float(most)), 1.0)

    def refused(
        self,
        now: float,
        sent: float,
        under_way: int,
        *,
        named: int | None = None,
        wait: float | None = None,
    ) -> None:
        """Take note that a request of the moment *sent* was turned away for lack of room.

        *named* is the number that the API allows, *wait* the seconds that it asks for.
        Requests of before the last cut say nothing new.
        """
        if wait is not None:
            self.resumes_at = max(self.resumes_at, now + wait)
        if named is not None:
            self._named = min(max(named, 1), self.most)
            self._named_until = now + NAMED_SECONDS
            self._limit = max(1.0, min(self._limit, float(named)))
        if sent <= self._cut_at:
            return
        self._cut_at = now
        if named is None:
            self._limit = max(1.0, min(self._limit, float(max(under_way, 1))) * CUT)
        if wait is None and named is None:
            pause = min(PAUSE * 2.0**self.cuts, PAUSE_AT_MOST)
            self.resumes_at = max(self.resumes_at, now + pause)
        self.cuts += 1
