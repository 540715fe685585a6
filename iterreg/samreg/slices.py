"""Work on the slices of an image in threads: one slice each, one thread a slice.

Two threads that share one small picture wait for each other most of the time; two threads with a
picture each do not. So the result of a slice does not depend on the number of threads either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from iterreg.devices import one_thread_each

Result = TypeVar("Result")
OnFraction = Callable[[float], None]


def in_threads(
    work: Callable[[int, OnFraction], Result],
    slices: Sequence[int],
    workers: int,
    on_fraction: OnFraction = lambda fraction: None,
) -> Iterator[Result]:
    """The results of all slices, in order.

    Args:
        work: called with a slice's number, and a function that takes the fraction of it that is
            done.
        slices: their numbers.
        workers: threads; with 1 everything happens in the caller's, with all of torch's threads.
        on_fraction: called with the fraction of the whole work that is done.

    Example:
        >>> list(in_threads(lambda number, on_fraction: number * number, [3, 1, 2], 2))
        [9, 1, 4]
    """
    count = len(slices)
    if workers <= 1:
        for done, number in enumerate(slices):
            yield work(number, partial(on_share, on_fraction, done, count))
        return
    with one_thread_each(workers) as pool:
        jobs = [pool.submit(work, number, _ignore) for number in slices]
        for done, job in enumerate(jobs):
            on_fraction(done / count)
            yield job.result()


def on_share(on_fraction: OnFraction, done: int, count: int, share: float) -> None:
    """Tell the fraction of a whole that is done.

    Args:
        on_fraction: called with it.
        done, count: parts that are done, and all parts.
        share: of the part in work that is done.
    """
    on_fraction((done + share) / count)


def _ignore(share: float) -> None:
    """The share of a slice, when several are worked on at once."""
