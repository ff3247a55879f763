"""The profiles that there are, by the name that a user gives."""

from __future__ import annotations

from ipc_bypass.profiles import cyclonedds, fastdds, zenoh
from ipc_bypass.profiles.settings import Settings

KINDS = {'cyclonedds': cyclonedds, 'fastdds': fastdds, 'zenoh': zenoh}

# Samples of a graph of images are many megabytes: by default glibc gives that memory back to the
# kernel and takes it again with each of them, a page fault for every 4 KB, which is half of a 1 MB
# round trip. So it keeps what was used, up to the first. The second is the largest block that
# comes from there, and the largest that glibc accepts.
ALLOCATOR = {'MALLOC_TRIM_THRESHOLD_': str(128 << 20), 'MALLOC_MMAP_THRESHOLD_': str(32 << 20)}


def text(kind: str, settings: Settings) -> str:
    """Return what the profile's file holds."""
    return KINDS[kind].profile(settings)


def environment(kind: str, path: str) -> dict[str, str]:
    """Return the variables of a process that takes the profile at `path`, without its port."""
    return {**KINDS[kind].environment(path), **ALLOCATOR}


def replaced_by_port(kind: str, settings: Settings) -> list[str]:
    """Return what the runner replaces in a copy of the file, and by what; [] for no copy."""
    if kind != 'zenoh':
        return []
    return [zenoh.listen(settings, '0'), zenoh.listen(settings, '@PORT@')]


def kind_of_rmw(name: str) -> str:
    """Return the kind of an RMW_IMPLEMENTATION, '' for one without a profile."""
    return next((kind for kind, module in KINDS.items() if name.startswith(module.RMW.rpartition(
        '_cpp')[0])), '')
