"""Programs whose traffic bench/software.py and test/software lead over an enrolled port."""

from software_cases import dds, proxies, stores, streams, web

ALL = (*streams.CASES, *stores.CASES, *web.CASES, *dds.CASES, *proxies.CASES)
