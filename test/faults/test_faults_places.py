"""The cgroup, the container or the interface that is served goes, with traffic in flight."""

from fault_lab import place_faults


def test_cgroup_removed(run):
    trial = run(place_faults.cgroup_removed)
    assert 'the cgroup was removed' in trial.told


def test_link_down_and_container_destroyed(run):
    assert 'told after' in run(place_faults.container_destroyed, link_down=True).told
