"""The disk fills up while `ipc-bypass record` writes, or below the log files of ROS."""

from fault_lab import disk_faults


def test_record(run):
    assert 'No space left on device' in run(disk_faults.record).told


def test_log_folder(run):
    run(disk_faults.log_folder)
