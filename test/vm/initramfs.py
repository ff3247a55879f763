"""The machine's first file system: busybox, the modules, and init.sh, as an archive in memory."""

import lzma
from pathlib import Path
import re
import shutil
import stat

_HERE = Path(__file__).resolve().parent
#: Modules that the machine or a test uses; those that they need come with them. The host has no
#: modprobe that could load them for this kernel later.
MODULES = (
    'virtio_pci', '9pnet_virtio', '9p', 'overlay', 'virtio-rng',
    'veth', 'bridge', 'tun', 'dummy',
    'unix_diag', 'tcp_diag', 'udp_diag', 'sch_ingress', 'cls_bpf',
)
#: Those that some kernels do not have.
OPTIONAL_MODULES = ('tls',)


def build(modules):
    """
    Return an archive that Linux unpacks as its first file system.

    :param modules: {name: path of the .ko file}, in the order in which they are to be loaded
    :raises RuntimeError: when busybox is missing or not static
    """
    busybox = Path(shutil.which('busybox') or '')
    if not busybox.is_file() or b'/ld-linux' in busybox.read_bytes():
        raise RuntimeError('there is no static busybox: apt-get install busybox-static')
    archive = Archive()
    archive.folder('bin')
    archive.file('bin/busybox', busybox.read_bytes())
    archive.file('init', (_HERE / 'init.sh').read_bytes())
    archive.folder('modules')
    for name, path in modules.items():
        archive.file(f'modules/{name}.ko', path.read_bytes())
    archive.file('modules/order', ''.join(f'{name}.ko\n' for name in modules).encode())
    # The kernel opens it for the first process before that could make it.
    archive.folder('dev')
    archive.device('dev/console', 5, 1)
    return archive.close()


def in_order(modules, built_in):
    """
    Return the names of MODULES and of those that they need, which come first.

    :param modules: {name: path of the .ko file}, the names as `module_name` gives them
    :param built_in: names of what the kernel has without a module
    :raises RuntimeError: when one is missing
    """
    found = []

    def add(name):
        if name in found or name in built_in:
            return
        if name not in modules:
            raise RuntimeError(f'the kernel package has no module {name}')
        needed = re.search(rb'\0depends=([^\0]*)\0', module_content(modules[name]))
        for other in (needed[1].decode() if needed else '').split(','):
            if other:
                add(module_name(other))
        found.append(name)

    for name in map(module_name, MODULES):
        add(name)
    for name in map(module_name, OPTIONAL_MODULES):
        if name in modules:
            add(name)
    return found


def module_content(path):
    """Return a module's bytes, unpacked where the package has it compressed."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == '.xz' else content


def module_name(name):
    """Return a module's name as the kernel writes it, with underscores."""
    return name.replace('-', '_')


class Archive:
    """An archive in the form 'newc' of cpio(5)."""

    def __init__(self):
        """Begin with nothing."""
        self._data = bytearray()
        self._entries = 0

    def folder(self, name):
        """Add a folder."""
        self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name, content):  # noqa: A003
        """Add an executable file."""
        self._add(name, stat.S_IFREG | 0o755, content)

    def device(self, name, major, minor):
        """Add a character device."""
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def close(self):
        """Return the archive's bytes."""
        self._add('TRAILER!!!', 0)
        return bytes(self._data)

    def _add(self, name, mode, content=b'', device=(0, 0)):
        self._entries += 1
        raw = name.encode() + b'\0'
        # inode, mode, uid, gid, links, mtime, size, device, device of a node, name, checksum
        numbers = (self._entries, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0)
        self._data += b'070701' + b''.join(b'%08X' % number for number in numbers) + raw
        self._pad()
        self._data += content
        self._pad()

    def _pad(self):
        self._data += bytes(-len(self._data) % 4)
