"""A virtual machine with another kernel, and the tests that run in it."""
