"""Kernel headers of another kind of machine, for BCC."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ipc_bypass.kernel import headers
from ipc_bypass.kernel.errors import HeadersError


@dataclass(frozen=True)
class CrossTree(headers.HeaderTree):
    """A tree of headers for the machine `architecture`, as the kernel names it."""

    architecture: str = ''

    def check(self) -> None:
        """Raise HeadersError unless the tree has what BCC includes."""
        for name in ('include/linux/kconfig.h', 'include/uapi/linux/bpf.h',
                     'include/generated/autoconf.h',
                     f'arch/{self.architecture}/include/generated',
                     f'arch/{self.architecture}/include/uapi'):
            if not (self.path / name).exists():
                raise HeadersError(f'use the kernel headers in {self.path}', f'it has no {name}',
                                   next_step="give the folder of Debian's package "
                                   f'linux-headers-*-{self.architecture}, unpacked')


def cross_headers(folder: Path | None, architecture: str) -> CrossTree:
    """
    Return a tree for another machine.

    :param folder: that of an unpacked package; the -common part is looked for beside it
    :raises HeadersError: when there is none
    """
    if folder is None:
        raise HeadersError(f'compile for {architecture}', 'no kernel headers were named',
                           next_step='give --headers')
    folder = folder.resolve()
    joined = headers._joined(headers._parts(Path('/'), folder), folder.name, None)
    tree = CrossTree(joined, 'environment', folder.name, architecture)
    tree.check()
    return tree
