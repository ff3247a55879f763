"""Debian's kernels, downloaded by apt and unpacked into the cache; never installed."""

from dataclasses import dataclass
import hashlib
from pathlib import Path
import re
import subprocess
import tempfile
import time

from ipc_bypass.kernel.headers import cache_folder

from vm import initramfs
from vm.debian import AptError, own_lists

#: The kernels' versions, each with the Debian release that has it.
RELEASES = {'5.10': 'bullseye', '6.1': 'bookworm', '6.12': 'trixie', '7.2': 'forky'}
# Where a kernel was fetched within this time, in seconds, apt is not asked for a newer one.
_FRESH = 14 * 24 * 3600


class NoKernelError(RuntimeError):
    """There is no such package, or it cannot be had."""


@dataclass(frozen=True)
class Kernel:
    """A kernel: its package, its image for qemu, and its modules by name."""

    package: str
    image: Path
    modules: dict[str, Path]


def debian_kernel(version='6.1'):
    """
    Return the newest kernel of a version in RELEASES, from the cache where it is there.

    :raises NoKernelError: when apt has none, or the download fails
    """
    place = cache_folder() / 'kernels'
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    cached = _cached(place, version)
    if cached and time.time() - cached.stat().st_mtime < _FRESH:
        return _kernel(cached)
    try:
        return _kernel(_fetched(place, version))
    except (AptError, subprocess.SubprocessError) as error:
        if cached:
            return _kernel(cached)
        raise NoKernelError(f'get kernel {version} of Debian {RELEASES[version]} for the '
                            f'virtual machine: {error}') from error


def _digest():
    """Return a mark of what is kept of a package: a list of modules, which may change."""
    names = initramfs.MODULES + initramfs.OPTIONAL_MODULES
    return hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]


def _pattern(version):
    """Return the names that Debian gave its packages of this version, as a regular expression."""
    return rf'linux-image-{re.escape(version)}\.[0-9]+(\+deb[0-9]+)?(-[0-9]+)?-amd64'


def _cached(place, version):
    """Return the folder of the kernel that was fetched last, None where there is none."""
    wanted = re.compile(f'{_pattern(version)}-{_digest()}')
    return max((folder for folder in place.iterdir() if wanted.fullmatch(folder.name)),
               key=lambda folder: folder.stat().st_mtime, default=None)


def _fetched(place, version):
    """Return the folder of the newest kernel that Debian has; download what is not there."""
    with tempfile.TemporaryDirectory(prefix='new-', dir=place) as folder:
        apt = own_lists(RELEASES[version], Path(folder, 'apt'))
        found = apt.search(f'^{_pattern(version)}$')
        if not found:
            raise AptError(f'it has no package {_pattern(version)}')
        package = max(found, key=lambda name: [int(number) for number in re.findall(r'\d+', name)])
        target = place / f'{package}-{_digest()}'
        if target.is_dir():
            target.touch()  # it is still the newest
            return target
        # Since 2026 the image's package is empty, and others have what it had.
        parts = [name for name in apt.depends(package)
                 if re.match(r'linux-(base|binary|modules)-\d', name)]
        kept, whole = Path(folder, 'kept'), Path(folder, 'whole')
        for name in (package, *parts):
            apt.unpack(name, whole)
        kept.mkdir()
        _keep(whole, kept)
        try:
            kept.rename(target)
        except OSError:
            if not target.is_dir():  # else another process made it meanwhile
                raise
        return target


def _keep(whole, kept):
    """Put what the machine needs of an unpacked kernel into a folder."""
    image = next((path for pattern in ('boot/vmlinuz-*', 'usr/lib/modules/*/vmlinuz')
                  for path in whole.glob(pattern)), None)
    if image is None:
        raise AptError('the packages have no kernel image')
    image.rename(kept / 'vmlinuz')
    modules = _modules(whole.glob('**/modules/*/kernel'))
    built_in = {initramfs.module_name(Path(line).stem)
                for listing in whole.glob('**/modules/*/modules.builtin')
                for line in listing.read_text().split()}
    try:
        order = initramfs.in_order(modules, built_in)
    except RuntimeError as error:
        raise AptError(str(error)) from error
    for name in order:
        (kept / f'{name}.ko').write_bytes(initramfs.module_content(modules[name]))
    (kept / 'modules.order').write_text(''.join(f'{name}\n' for name in order))


def _kernel(folder):
    return Kernel(folder.name.rpartition('-')[0], folder / 'vmlinuz',
                  {name: folder / f'{name}.ko'
                   for name in (folder / 'modules.order').read_text().split()})


def _modules(folders):
    """Return the modules in these folders by name."""
    return {initramfs.module_name(path.name.partition('.')[0]): path
            for folder in folders for path in folder.rglob('*.ko*')}
