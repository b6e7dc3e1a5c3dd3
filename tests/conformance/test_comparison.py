"""The comparison with the peers can fail; no peer is needed to see that."""

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the peers' answers are compared with those on TensorFlow")

from tests.conformance.__main__ import ROWS  # noqa: E402
from tests.conformance.asking import PEERS, script  # noqa: E402
from tests.conformance.comparison import Deviation, Row, compare, table  # noqa: E402

BY_ONE = Deviation("theirs", "counts from one", {"start": 1})
OPEN = Deviation("theirs", "starts anywhere", lambda answer: {"start": answer[0, 0]})
OURS = Deviation("ours", "counts from two", {"start": 2})


def counted(call, start=0):
    return np.arange(call["size"])[:, None] + start


def outcome(theirs, ours, *deviations, tolerance=0):
    row = Row("peer", "peer.count", "nms", None, None, counted, tolerance, "equal", deviations)
    return compare(row, [{"size": 3}], [np.array(theirs)], [np.array(ours)])


def test_equal_answers():
    result = outcome([[0], [1], [2]], [[0], [1], [2]])
    assert (result.cases, result.largest) == (3, 0.0)
    assert not result.exceptions
    assert not result.unexplained


def test_a_wrong_answer_of_ours_is_reported():
    result = outcome([[0], [1], [2]], [[0], [1], [7]], BY_ONE)
    assert len(result.unexplained) == 1
    assert "case 2: at (0,) ours 7, theirs 2, by definition 2" in result.unexplained[0]


def test_a_deviation_of_theirs_explains_nothing_where_ours_is_wrong():
    assert len(outcome([[1], [2], [3]], [[5], [6], [7]], BY_ONE).unexplained) == 3


@pytest.mark.parametrize(
    ("theirs", "ours", "deviation"),
    [
        ([[1], [2], [3]], [[0], [1], [2]], BY_ONE),
        ([[4], [5], [6]], [[0], [1], [2]], OPEN),
        ([[0], [1], [2]], [[2], [3], [4]], OURS),
    ],
)
def test_a_deviation_explains_what_it_predicts(theirs, ours, deviation):
    result = outcome(theirs, ours, deviation)
    assert not result.unexplained
    assert list(result.exceptions) == [f"{deviation.whose}: {deviation.reason}"]
    assert result.exceptions[f"{deviation.whose}: {deviation.reason}"][0] == 3


def test_two_deviations_explain_together_what_neither_does_alone():
    result = outcome([[1], [2], [3]], [[2], [3], [4]], BY_ONE, OURS)
    assert not result.unexplained
    assert len(result.exceptions) == 2


def test_another_shape_is_reported():
    assert "shapes" in outcome([[0], [1]], [[0], [1], [2]]).unexplained[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_differs_from_what_is(value):
    loose = lambda call, answer: 1e9  # noqa: E731
    assert outcome([[value], [1], [2]], [[0], [1], [2]], tolerance=loose).unexplained
    assert not outcome([[value], [1], [2]], [[value], [1], [2]], tolerance=loose).unexplained


def test_the_table_names_what_is_unexplained():
    row = Row("peer", "peer.count", "nms", None, None, counted, 0, "equal")
    text = table([(row, {"native": outcome([[0], [1], [2]], [[0], [1], [7]])})])
    assert "| peer.count | nms (native) | 3 | 0 | equal | **1 unexplained** |" in text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.function)
def test_every_row(row):
    """Its peer knows the function; what is drawn has answers that no deviation takes shape from."""
    assert f'"{row.function}"' in script(row.peer).read_text()
    call = row.draw(np.random.default_rng(0))
    expected = row.definition(call)
    assert len(expected) == row.size(call)
    for deviation in row.deviations:
        rule = deviation.rule(expected) if callable(deviation.rule) else deviation.rule
        assert row.definition(call, **rule).shape == expected.shape


def test_every_peer_has_a_row():
    assert {row.peer for row in ROWS} == set(PEERS)
