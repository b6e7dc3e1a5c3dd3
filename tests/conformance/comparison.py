"""The rule by which an answer of kvision's is compared with a peer's.

A case is one box, one pair of boxes or one set of boxes: one entry along the first axis of an
answer. Where the two sides differ by more than the row's tolerance, a definition in NumPy, written
from the papers and from nobody's code, says who is right. A difference is explained if the
definition gives our answer, and gives theirs once it is told to deviate as they do; or the other
way round, where the deviation is ours. Both sides of an explanation are thus computed, case by
case; whatever no deviation of the row's list explains is a failure.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Deviation:
    """A known way in which one side leaves the definition.

    Attributes:
        whose: "theirs" or "ours".
        reason: What that side does, for the table.
        rule: Keyword arguments that make the definition do the same; or a function that takes
            them from that side's answer, where the deviation leaves something open, such as the
            order of equal scores.
    """

    whose: str
    reason: str
    rule: dict | Callable


@dataclasses.dataclass(frozen=True)
class Row:
    """One function of a peer's and what kvision has for it.

    Attributes:
        peer: The environment that answers, a key of `asking.PEERS`.
        function: The peer's function, a name that its side of the comparison knows.
        op: The name in `kvision.ops` or `kvision.losses`.
        draw: Draws the arguments of one call from a random generator: a dict of arrays, numbers
            and strings.
        ours: Answers a call with kvision: an array, cases along its first axis.
        definition: Answers a call from the definition; takes the deviations' rules by keyword.
        tolerance: Largest difference that counts as none, of the shape of an answer or to be
            broadcast to it: a function of the call and of our answer, or 0.
        stated: The tolerance in words.
        deviations: What is known to differ.
        cost: How much dearer than a pair of boxes a case is: the number of cases is divided by it.
        size: The number of cases in a call.
        unit: What the numbers of a call's answer are of the order of, to be broadcast to it:
            differences are relative to it, and to the numbers that are greater.
    """

    peer: str
    function: str
    op: str
    draw: Callable
    ours: Callable
    definition: Callable
    tolerance: Callable | int
    stated: str
    deviations: tuple[Deviation, ...] = ()
    cost: int = 1
    size: Callable = lambda call: 1
    unit: Callable = lambda call: 1.0


@dataclasses.dataclass
class Outcome:
    """What came of comparing a row.

    Attributes:
        cases: How many were compared.
        largest: The largest difference among those that agree.
        exceptions: By reason how many cases it explains, alone or with another reason, and the
            largest difference among them.
        unexplained: What else differs, a line each.
    """

    cases: int = 0
    largest: float = 0.0
    exceptions: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
    unexplained: list[str] = dataclasses.field(default_factory=list)

    def add_exception(self, reason, difference):
        count, largest = self.exceptions.get(reason, (0, 0.0))
        self.exceptions[reason] = count + 1, max(largest, difference)


def compare(row, calls, theirs, ours):
    """The outcome of a row's calls, given both sides' answers to each."""
    outcome = Outcome()
    for number, (call, their_answer, our_answer) in enumerate(
        zip(calls, theirs, ours, strict=True)
    ):
        outcome.cases += len(our_answer)
        if their_answer.shape != our_answer.shape:
            shapes = f"shapes {our_answer.shape} and {their_answer.shape}"
            outcome.unexplained.append(f"call {number}: {shapes}")
            continue
        tolerance = row.tolerance(call, our_answer) if callable(row.tolerance) else row.tolerance
        differences = _differences(our_answer, their_answer, row.unit(call))
        differing = _rows_over(differences, tolerance)
        outcome.largest = max(outcome.largest, _largest(differences[~differing]))
        if differing.any():
            expected = _float64(row.definition(call))
            reasons = _reasons(row, call, our_answer, their_answer, expected, tolerance)
            for case in np.flatnonzero(differing):
                for reason in reasons[case] or ():
                    outcome.add_exception(reason, _largest(differences[case]))
                if not reasons[case]:
                    outcome.unexplained.append(
                        f"call {number}, case {case}: "
                        + _worst(differences, case, our_answer, their_answer, expected)
                    )
    return outcome


def _reasons(row, call, ours, theirs, expected, tolerance):
    """For each case, the fewest deviations that explain both answers, a list; or None."""
    reasons = [None] * len(ours)
    for size in range(1, len(row.deviations) + 1):
        for chosen in itertools.combinations(row.deviations, size):
            answers = {"ours": (ours, {}), "theirs": (theirs, {})}
            for deviation in chosen:
                answer, rule = answers[deviation.whose]
                rule |= deviation.rule(answer) if callable(deviation.rule) else deviation.rule
            explained = np.ones(len(ours), bool)
            for answer, rule in answers.values():
                model = _float64(row.definition(call, **rule)) if rule else expected
                explained &= ~_rows_over(_differences(answer, model, row.unit(call)), tolerance)
            texts = [f"{deviation.whose}: {deviation.reason}" for deviation in chosen]
            for case in np.flatnonzero(explained):
                reasons[case] = reasons[case] or texts
    return reasons


def _float64(array):
    return np.asarray(array, "float64")


def _differences(first, second, unit):
    """Relative to the unit or to greater numbers; equal infinities and NaNs differ by nothing."""
    first, second = _float64(first), _float64(second)
    with np.errstate(invalid="ignore"):
        differences = np.abs(first - second) / np.maximum(unit, np.abs(second))
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    return np.where(same, 0.0, np.where(np.isnan(differences), np.inf, differences))


def _rows_over(differences, tolerance):
    over = differences > tolerance
    return over.reshape(len(differences), -1).any(axis=1)


def _largest(differences):
    return float(np.max(differences, initial=0.0))


def _worst(differences, case, ours, theirs, expected):
    """The numbers where two answers to a case differ most."""
    place = np.unravel_index(np.argmax(differences[case]), differences[case].shape)
    ours, theirs, expected = (answer[case][place] for answer in (ours, theirs, expected))
    return (
        f"at {tuple(map(int, place))} ours {ours:.9g}, theirs {theirs:.9g}, "
        f"by definition {expected:.9g}"
    )


def table(results):
    """Markdown of `(row, {implementation: outcome})` pairs."""
    lines = [
        "| peer function | kvision | cases | largest difference | tolerance | exceptions |",
        "|---|---|---|---|---|---|",
    ]
    for row, outcomes in results:
        name = f"| {row.function} | {row.op} "
        for implementation, outcome in outcomes.items():
            exceptions = [
                f"{count}: {reason}" + (f" (by up to {_figure(largest)})" if row.tolerance else "")
                for reason, (count, largest) in outcome.exceptions.items()
            ]
            if outcome.unexplained:
                exceptions.append(f"**{len(outcome.unexplained)} unexplained**")
            lines.append(
                f"{name}({implementation}) | {outcome.cases:,} | {_figure(outcome.largest)} "
                f"| {row.stated} | {'; '.join(exceptions) or 'none'} |"
            )
    return "\n".join(lines)


def _figure(number):
    return f"{number:.2g}"
