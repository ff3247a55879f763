"""Trials of the fault lab (bench/fault_lab), held to what has to be."""


def right(trial):
    """Assert that everything was as it has to be; return the Trial."""
    assert not trial.problems, trial
    assert not trial.lost_bytes, trial
    return trial
