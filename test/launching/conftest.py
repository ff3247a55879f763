"""What the tests of the launch files of graphs share."""

import os

# A domain of this session, on this host only: nobody else's nodes get in.
os.environ['ROS_DOMAIN_ID'] = str(50 + os.getpid() % 50)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'

import pytest  # noqa: E402


@pytest.fixture(scope='session', autouse=True)
def ros_logs(tmp_path_factory):
    """Keep the log files of ROS out of the home folder."""
    os.environ['ROS_LOG_DIR'] = str(tmp_path_factory.mktemp('ros_log'))
