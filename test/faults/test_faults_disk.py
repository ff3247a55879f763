"""A full disk: one clear line, nothing half done, and the next try works."""

from fault_lab import disk_faults


def test_configure(run):
    assert 'No space left on device' in run(disk_faults.configure).told


def test_profile(run):
    assert 'No space left on device' in run(disk_faults.profile).told
