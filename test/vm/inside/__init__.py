"""Tests that are made for the virtual machines; they pass on any host."""
