"""Thin ROS 2 shells around the paths: parameters, topics and services, no kernel code."""
