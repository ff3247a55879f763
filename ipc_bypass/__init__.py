"""Shorter ways through the kernel for the local traffic of an unmodified DDS graph."""
