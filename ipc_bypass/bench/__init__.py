"""Benches: what a path gains on this machine, measured with real peers in own namespaces."""
