"""Training that was killed goes on as if nothing had happened."""

import pytest


def test_killed_training_goes_on(train_digits, uninterrupted, tmp_path):
    backup = tmp_path / "backup"
    assert train_digits("--backup", backup, "--kill-at", 1, 1) is None
    assert backup.is_dir()

    continued = train_digits("--backup", backup)
    assert continued["epochs"] == [1]
    assert uninterrupted["epochs"] == [0, 1]
    for name, losses in continued["history"].items():
        assert losses == pytest.approx(uninterrupted["history"][name][1:], abs=1e-4), name
    assert continued["iterations"] == uninterrupted["iterations"] == 4
    assert continued["sampling_step"] == uninterrupted["sampling_step"] == 4
    # 0.02 falls to 0.7 of itself every 2 iterations.
    assert uninterrupted["learning_rate"] == pytest.approx(0.02 * 0.7**2)
    assert continued["learning_rate"] == uninterrupted["learning_rate"]
