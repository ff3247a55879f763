# shellcheck shell=sh
# To be sourced: puts the nodes of ipc_bypass, and the ROS 2 that they bring, in reach of a shell.
# With another ROS 2 sourced before, that one's packages come after these.
export AMENT_PREFIX_PATH="/opt/ipc_bypass:/opt/ipc_bypass/venv${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"
export LD_LIBRARY_PATH="/opt/ipc_bypass/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PATH="/opt/ipc_bypass/bin:/opt/ipc_bypass/venv/bin:$PATH"
export PYTHONPATH="/opt/ipc_bypass/lib/python@PYTHON@/site-packages${PYTHONPATH:+:$PYTHONPATH}"
