"""
Servers that tests run as peers: those that are installed, else unpacked into the cache.

They are never installed for the tests: a package of a server starts it, and at every boot again.
"""

import hashlib
import os
from pathlib import Path
import shutil
import subprocess
import tempfile

from ipc_bypass.kernel.headers import cache_folder

_PATIENCE = 300
_FOLDERS = ('usr/sbin', 'usr/bin', 'sbin', 'bin')


class Program:
    """
    A program that may be run.

    `path` is the file, `root` the folder that its package was unpacked in ('/' where it is
    installed), `environment` what it has to be run with.
    """

    def __init__(self, path, root):
        """Note where it is."""
        self.path, self.root = Path(path), Path(root)
        libraries = sorted({str(each.parent) for each in self.root.glob('usr/lib/**/*.so*')}
                           ) if self.root != Path('/') else []
        self.environment = {**os.environ, 'LD_LIBRARY_PATH': os.pathsep.join(
            [*libraries, os.environ.get('LD_LIBRARY_PATH', '')]).strip(os.pathsep)}


def program(name, package):
    """Return a Program of this name; raises RuntimeError where apt cannot bring its package."""
    found = shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')
    if found:
        return Program(found, '/')
    target = cache_folder() / 'servers' / package
    if not target.is_dir():
        _unpack(package, target)
    for folder in _FOLDERS:
        if (target / folder / name).exists():
            return Program(target / folder / name, target)
    raise RuntimeError(f'the package {package} has no {name}')


def _unpack(package, target):
    """Unpack a package and what it needs that is not installed, all of it or nothing."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = _run('apt-get', '-s', 'install', '--no-install-recommends', package).splitlines()
    names = [line.split()[1] for line in lines if line.startswith('Inst ')] or [package]
    with tempfile.TemporaryDirectory(prefix='new-', dir=target.parent) as folder:
        _run('apt-get', 'download', *names, cwd=folder)
        whole = Path(folder, 'whole')
        for archive in sorted(Path(folder).glob('*.deb')):
            _run('dpkg-deb', '-x', archive, whole)
        for link in list(whole.rglob('*')):  # redis-server is a name for a file of another package
            elsewhere = link.is_symlink() and not link.exists() and shutil.which(
                Path(os.readlink(link)).name)
            if elsewhere:
                link.unlink()
                link.symlink_to(elsewhere)
        try:
            whole.rename(target)
        except OSError:
            if not target.is_dir():  # else another process made it meanwhile
                raise


def _run(*command, cwd=None):
    try:
        return subprocess.run(command, cwd=cwd, check=True, timeout=_PATIENCE, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL,
                              env={**os.environ, 'LC_ALL': 'C'}).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, 'stderr', None) or '').strip().splitlines()
        raise RuntimeError(f'{command[0]} failed: {said[-1] if said else error}') from error


def digest_of(stream, size=1 << 20):
    """Return the hash of a stream's bytes as text, and how many there were."""
    content, total = hashlib.blake2b(digest_size=16), 0
    while part := stream.read(size):
        content.update(part)
        total += len(part)
    return content.hexdigest(), total
