"""A folder with a profile for containers: the same files, with what starts containers beside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ipc_bypass.profiles import compose, folder, kubernetes
from ipc_bypass.profiles.settings import Settings


def write(kind: str, settings: Settings, path: Path | None = None) -> folder.Written:
    """
    Write the profile, a compose file and Kubernetes manifests; return a folder.Written.

    Raises ProfileError. Without peers, Cyclone DDS gets those of the compose file: it finds nobody
    by itself. Shared memory is left out, since no two containers have the same.
    """
    if kind == 'cyclonedds' and not settings.peers:
        settings = dataclasses.replace(settings, peers=tuple(compose.ADDRESSES.values()))
    settings = dataclasses.replace(settings, shared_memory=False)
    files = folder.texts(kind, settings, folder.CONTAINER_FOLDER)
    return folder.write(kind, settings, path, seen_at=folder.CONTAINER_FOLDER, extra={
        compose.FILE: compose.text(kind, settings), kubernetes.FILE: kubernetes.text(kind, files)})


def default_folder(kind: str, domain: int) -> Path:
    """Return where such a folder goes: beside the user's own compose files."""
    return Path.cwd() / folder.default_folder(kind, domain).name
