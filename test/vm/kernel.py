"""Debian 12's own kernel, downloaded by apt and unpacked into the cache; never installed."""

from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import re
import subprocess
import tempfile

from ipc_bypass.kernel.headers import cache_folder

from vm.initramfs import in_order, module_name, MODULES

_PATTERN = r'^linux-image-6\.1\.0-[0-9]+-amd64$'
_PATIENCE = 300


class NoKernelError(RuntimeError):
    """There is no such package, or it cannot be had."""


@dataclass(frozen=True)
class Kernel:
    """A kernel: its package, its image for qemu, and its modules by name."""

    package: str
    image: Path
    modules: dict[str, Path]


def debian_kernel():
    """
    Return the newest 6.1 kernel that apt knows, from the cache where it is there.

    :raises NoKernelError: when apt has none, or the download fails
    """
    place = cache_folder() / 'kernels'
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Apt's own lists may be missing, as in a container, or old; then lists of our own serve.
    own = [f'-oDir::State::Lists={place}/lists', f'-oDir::Cache={place}/cache']
    reason = ''
    for options in ([], own):
        try:
            if options:
                _run('apt-get', *options, 'update')
            package = _newest(options)
            if package is None:
                reason = 'apt knows no linux-image-6.1.0-*-amd64, a package of Debian 12'
                continue
            target = place / f'{package}-{_digest()}'
            if not target.is_dir():
                _fetch(package, options, target)
            return _kernel(package, target)
        except subprocess.SubprocessError as error:
            reason = _said(error)
    for target in sorted(place.glob(f'linux-image-*-{_digest()}')):
        return _kernel(target.name.rpartition('-')[0], target)
    raise NoKernelError(f'get a kernel for the virtual machine: {reason}')


def _digest():
    """Return a mark of what is kept of a package: a list of modules, which may change."""
    return hashlib.sha256(' '.join(MODULES).encode()).hexdigest()[:8]


def _newest(options):
    """Return the name of the newest package, None where there is none."""
    found = [line.split()[0] for line in
             _run('apt-cache', *options, 'search', '--names-only', _PATTERN).splitlines()]
    return max(found, key=lambda name: [int(number) for number in re.findall(r'\d+', name)],
               default=None)


def _fetch(package, options, target):
    """Download a package and keep of it what the machine needs, all of it or nothing."""
    with tempfile.TemporaryDirectory(prefix='new-', dir=target.parent) as folder:
        whole, kept = Path(folder, 'whole'), Path(folder, 'kept')
        _run('apt-get', *options, 'download', package, cwd=folder)
        archive, = Path(folder).glob('*.deb')
        _run('dpkg-deb', '-x', archive, whole)
        image, = whole.glob('boot/vmlinuz-*')
        modules = _modules(whole.glob('lib/modules/*/kernel'))
        kept.mkdir()
        image.rename(kept / 'vmlinuz')
        for name in in_order(modules, MODULES):
            modules[name].rename(kept / f'{name}.ko')
        try:
            kept.rename(target)
        except OSError:
            if not target.is_dir():  # else another process made it meanwhile
                raise


def _kernel(package, folder):
    return Kernel(package, folder / 'vmlinuz', _modules([folder]))


def _modules(folders):
    """Return the modules in these folders by name."""
    return {module_name(path.stem): path for folder in folders for path in folder.rglob('*.ko')}


def _run(*command, cwd=None):
    """Run a command and return what it printed; raises subprocess.SubprocessError."""
    return subprocess.run(command, cwd=cwd, check=True, timeout=_PATIENCE, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, 'LC_ALL': 'C'}).stdout


def _said(error):
    """Return why a command failed, in one line."""
    lines = (getattr(error, 'stderr', None) or '').strip().splitlines()
    return f'{error}: {lines[-1]}' if lines else str(error)
