"""The trace path: probes on the send functions, where nothing better can be had."""  # noqa: A005
