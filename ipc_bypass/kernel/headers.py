"""
Find kernel headers that BCC can compile with.

BCC wants one tree. In this order: what BCC_KERNEL_SOURCE names, the running kernel's build
tree, the headers that the kernel carries (CONFIG_IKHEADERS), any installed linux-headers. Our
programs use only the stable user API of the kernel (uapi), so headers of another release serve.
A package that is split in two trees (Debian) is joined by links in the user's cache folder.
"""

from __future__ import annotations

from dataclasses import dataclass
import hashlib
import os
from pathlib import Path
import platform
import re
import shutil
import tempfile

from ipc_bypass.kernel.errors import HeadersError
from ipc_bypass.kernel.trusted_paths import distrust

# Debian's and BCC's word for the machine, by that of uname(2).
_ARCHITECTURES = {'x86_64': 'x86', 'i686': 'x86', 'i386': 'x86', 'aarch64': 'arm64',
                  'armv7l': 'arm', 'armv6l': 'arm', 'ppc64le': 'powerpc', 's390x': 's390',
                  'riscv64': 'riscv', 'loongarch64': 'loongarch'}
_ROOT_CACHE = '/var/cache'
#: The next step where there are none.
HEADER_PACKAGES = ('apt-get install linux-headers-$(uname -r), or of any release: '
                   'linux-headers-amd64 (Debian), linux-headers-generic (Ubuntu)')


@dataclass(frozen=True)
class HeaderTree:
    """
    A tree of kernel headers, for BCC_KERNEL_SOURCE.

    `kind` is 'environment', 'build', 'kheaders' or 'installed'; `release` that of the headers.
    """

    path: Path
    kind: str
    release: str

    def check(self) -> None:
        """Raise HeadersError unless BCC, which crashes without headers, will find them."""
        if not _is_whole([self.path]):
            raise HeadersError(f'use the kernel headers in {self.path}',
                               'there is no complete tree', next_step=HEADER_PACKAGES)


def find_headers(root: str | os.PathLike = '/', *, cache: Path | None = None,
                 release: str | None = None) -> HeaderTree:
    """
    Return a tree of kernel headers, made in the cache folder where none is whole.

    :param root: where /lib/modules, /usr/src and /sys are looked for
    :param cache: folder for trees that are put together; $XDG_CACHE_HOME/ipc_bypass or
        ~/.cache/ipc_bypass when left out
    :param release: release of the running kernel, as `uname -r` says it
    :raises HeadersError: when there are none; the next step names the package
    """
    root, release = Path(root), release or os.uname().release
    named = os.environ.get('BCC_KERNEL_SOURCE')
    if named:
        if not _is_whole([Path(named)]):
            raise HeadersError(f'use the kernel headers in {named} (BCC_KERNEL_SOURCE)',
                               'there is no complete tree',
                               next_step='unset BCC_KERNEL_SOURCE or give a build tree')
        return HeaderTree(Path(named), 'environment', _release_of(Path(named)))
    for kind, candidates in (('build', [root / 'lib/modules' / release]),
                             ('installed', _installed(root))):
        for place in candidates:
            parts = _parts(root, place)
            if _is_whole(parts):
                name = release if kind == 'build' else _release_of(parts[0])
                return HeaderTree(_joined(parts, name, cache), kind, name)
        archive = root / 'sys/kernel/kheaders.tar.xz'
        if kind == 'build' and archive.exists():
            return HeaderTree(_unpacked(archive, release, cache), 'kheaders', release)
    raise HeadersError('find kernel headers', f'none for {release} and no others are installed',
                       next_step=HEADER_PACKAGES)


def cache_folder() -> Path:
    """
    Return the folder for what can be made again, $XDG_CACHE_HOME/ipc_bypass or its default.

    Root with another user's HOME, as after `sudo -E`, has /var/cache/ipc_bypass.
    """
    base = os.environ.get('XDG_CACHE_HOME') or ''
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser('~'), '.cache')
    if os.geteuid() == 0 and distrust(Path(base) / 'ipc_bypass'):
        base = _ROOT_CACHE
    return Path(base) / 'ipc_bypass'


def _installed(root: Path) -> list[Path]:
    """Return the places where packages put headers, the newest release first."""
    places = [*root.glob('lib/modules/*'), *root.glob('usr/src/linux-headers-*'),
              *root.glob('usr/src/kernels/*')]
    return sorted(places, key=lambda place: (_version(place.name), place.name), reverse=True)


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r'\d+', name)]


def _parts(root: Path, place: Path) -> list[Path]:
    """Return the trees that make up the headers at a place, the generated part first."""
    if (place / 'build').is_dir():
        build, source = place / 'build', place / 'source'
    else:
        build, source = place, place / 'source'
    parts = [build.resolve()]
    if source.is_dir() and source.resolve() != parts[0]:
        parts.append(source.resolve())
    elif not _is_whole(parts):
        parts += _named_by_makefile(root, build)
    return parts


def _named_by_makefile(root: Path, build: Path) -> list[Path]:
    """Return the tree that the Makefile of a split package includes (Debian's -common)."""
    try:
        text = (build / 'Makefile').read_text(errors='replace')
    except OSError:
        return []
    match = re.search(r'^include\s+(/\S+)/Makefile\s*$', text, re.MULTILINE)
    if not match:
        return []
    common = root / match.group(1).lstrip('/')
    return [common.resolve()] if common.is_dir() else []


def _is_whole(parts: list[Path]) -> bool:
    """Return whether these trees together hold what BCC includes."""
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    needed = ('include/linux/kconfig.h', 'include/uapi/linux/bpf.h',
              'include/generated/autoconf.h', f'arch/{architecture}/include/generated',
              f'arch/{architecture}/include/uapi')
    return all(any((part / name).exists() for part in parts) for name in needed)


def _release_of(build: Path) -> str:
    try:
        text = (build / 'include/generated/utsrelease.h').read_text()
        return re.search(r'UTS_RELEASE "([^"]*)"', text).group(1)
    except (OSError, AttributeError):
        return build.name.replace('linux-headers-', '')


def _joined(parts: list[Path], release: str, cache: Path | None) -> Path:
    """Return one tree of these parts, by links in the cache folder where there are several."""
    if len(parts) == 1:
        return parts[0]
    stamps = [str((part, part.stat().st_mtime_ns)) for part in parts]

    def fill(folder: Path) -> None:
        for name in ('include', 'arch'):
            _merge(folder / name, [part / name for part in parts if (part / name).is_dir()])
    return _made(cache, release, '\n'.join(stamps), fill)


def _merge(target: Path, sources: list[Path]) -> None:
    """Make `target` a folder that shows all entries of `sources`; earlier ones win."""
    target.mkdir()
    entries: dict[str, list[Path]] = {}
    for source in sources:
        for entry in source.iterdir():
            entries.setdefault(entry.name, []).append(entry)
    for name, found in entries.items():
        folders = [entry for entry in found if entry.is_dir()]
        if len(folders) > 1:
            _merge(target / name, folders)
        else:
            (target / name).symlink_to(found[0])


def _unpacked(archive: Path, release: str, cache: Path | None) -> Path:
    """Return the tree in the kernel's own archive of headers."""
    import tarfile  # rarely needed, and not small

    def fill(folder: Path) -> None:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isfile() or member.isdir()
                       if not member.name.startswith('/') and '..' not in member.name.split('/')]
            tar.extractall(folder, members)
    try:
        return _made(cache, release, f'kheaders {archive.stat().st_size}', fill)
    except (tarfile.TarError, EOFError) as error:
        raise HeadersError(f'unpack {archive}', str(error), next_step=HEADER_PACKAGES) from error


def _made(cache: Path | None, release: str, key: str, fill) -> Path:
    """
    Return a folder of the cache, filled first where it is not there yet.

    It is filled under another name and then renamed, so that nobody sees half of it.
    """
    cache = cache or cache_folder()
    name = re.sub(r'[^\w.+-]', '_', release)
    target = cache / f'headers-{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}'
    staged = None
    reason = distrust(target)
    if reason:
        raise HeadersError(f'use the kernel headers in {target}', reason,
                           next_step='set XDG_CACHE_HOME to a folder of your own')
    try:
        if target.is_dir() and not target.is_symlink():
            return target
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix='headers-new-', dir=cache))
        staged.chmod(0o755)
        fill(staged)
        try:
            staged.rename(target)
        except OSError:
            if not target.is_dir():  # else another process made it meanwhile
                raise
        return target
    except OSError as error:
        raise HeadersError(f'put kernel headers together in {cache}', errno=error.errno or 0,
                           next_step='set XDG_CACHE_HOME to a folder that you can write'
                           ) from error
    finally:
        if staged is not None:
            shutil.rmtree(staged, ignore_errors=True)
