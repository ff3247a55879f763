"""Thin ROS 2 shells around the paths: parameters, topics and services, no kernel code."""

import os

# numpy's OpenBLAS starts its threads when it is imported, long before the process gives up
# capabilities, and such a thread would keep them all; nothing here multiplies matrices.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
