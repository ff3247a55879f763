"""The systemd units as data, and a way to run what they run with what they allow."""

import os
from pathlib import Path
import re
import shlex
import shutil
import subprocess
import tempfile

from support.waiting import wait_until

SOURCE = Path(__file__).resolve().parents[2]
FOLDER = SOURCE / 'systemd'
UNITS = sorted(FOLDER.glob('*.service'))
#: Who runs the services here: a user that every system has.
USER, GROUP = 'nobody', 'nogroup'
_INSTALLED = '/usr/local/lib/ipc_bypass/'
# As TemporaryFileSystem=, BindPaths= and ReadOnlyPaths= do: of the file system only the folder is
# seen, and nothing else below /sys or in /proc/sys can be written to.
_PINS = """
set -e
user=$1 folder=$2 aside=$3 tool=$4; shift 4
"$tool" "$user" "$folder"
mount --bind "$folder" "$aside"
mount -t tmpfs -o mode=0755 none /sys/fs/bpf
mkdir -p "$folder"
mount --move "$aside" "$folder"
mount --bind /proc/sys /proc/sys
cut -d ' ' -f 2 /proc/self/mounts | while read -r place; do
    case $place in
    /sys/fs/bpf*) ;;
    /sys | /sys/* | /proc/sys) mount -o remount,bind,ro "$place" ;;
    esac
done
exec "$@"
"""

_TUN = """
set -e
mknod "$1" c 10 200
chmod 666 "$1"
mount --bind "$1" /dev/net/tun
shift
exec "$@"
"""


class Unit:
    """A unit file: `settings` are the values by name, each a list."""

    def __init__(self, path):
        """Read it."""
        self.path, self.settings, self.text = path, {}, path.read_text()
        for line in self.text.splitlines():
            name, sign, value = line.partition('=')
            if sign and not line.startswith(('#', '[')):
                self.settings.setdefault(name, []).append(value)

    def __getitem__(self, name):
        """Return the last value of a setting, '' where it is not set."""
        return self.settings.get(name, [''])[-1]

    @property
    def capabilities(self):
        """Return the names of its capabilities."""
        return self['AmbientCapabilities'].split()

    def command(self, **variables):
        """Return the words of ExecStart, with what stands in place of variables."""
        words = []
        for word in self['ExecStart'].replace(_INSTALLED, f'{FOLDER}/').split():
            words += variables[word[1:]] if word.startswith('$') else [
                word.replace('=ipc-bypass', f'={GROUP}')]
        return words

    @property
    def system_calls(self):
        """Return the names of the system calls that SystemCallFilter= lets pass."""
        names = set()
        for value in self.settings['SystemCallFilter']:
            listed = set().union(*map(_system_calls, value.removeprefix('~').split()))
            names = names - listed if value.startswith('~') else names | listed
        return names


def _system_calls(name):
    """Return the system calls of a set as @system-service, or of a name."""
    if not name.startswith('@'):
        return {name}
    shown = subprocess.run(['systemd-analyze', 'syscall-filter', name], capture_output=True,
                           text=True, timeout=60, check=True).stdout
    words = [line.strip() for line in shown.splitlines()[1:]]
    return set().union(*(_system_calls(word) for word in words if word and word[0] != '#'))


class Traced:
    """
    What a command asks of the kernel, by strace: `words` come before the command.

    The command is the child of who starts it, and has its pid.
    """

    def __init__(self, folder):
        """Nothing yet."""
        self._log = Path(folder) / 'strace.log'
        self.words = ('strace', '-D', '-f', '-q', '-o', str(self._log))

    def check(self, unit, pid):
        """Raise AssertionError where a unit does not allow what a process that ended did."""
        wait_until(lambda: re.search(rf'^{pid} +\+\+\+ ', self._log.read_text(errors='replace'),
                                     re.MULTILINE), 'strace has written all')
        # What came before is of setpriv.
        text = self._log.read_text(errors='replace').partition('ipc-bypass-launch')[2]
        asked = set(re.findall(r'^\d+ +(\w+)\(', text, re.MULTILINE))
        assert {'execve', 'socket', 'mmap'} <= asked
        assert asked <= unit.system_calls, asked - unit.system_calls
        families = set(re.findall(r'\bsocket\((AF_\w+)', text))
        assert families <= set(unit['RestrictAddressFamilies'].split()), families
        if unit['MemoryDenyWriteExecute'] == 'yes':
            assert 'PROT_WRITE|PROT_EXEC' not in text
            assert not re.search(r'mprotect\([^)]*PROT_EXEC', text)


class Home:
    """The folders that a unit gives its user, of USER, and a set-up that runs this source."""

    def __init__(self):
        """Make them."""
        self.path = Path(tempfile.mkdtemp(prefix='ipc_bypass_unit_'))
        self.path.chmod(0o755)
        for name in ('cache', 'log', 'run', 'aside'):
            (self.path / name).mkdir()
            shutil.chown(self.path / name, USER, GROUP)
        self.setup = self.path / 'setup.bash'
        self.setup.write_text(f'. {shlex.quote(str(SOURCE))}/scripts/activate\n'
                              f'export PYTHONPATH={shlex.quote(str(SOURCE))}:$PYTHONPATH\n')

    def close(self):
        """Remove them."""
        shutil.rmtree(self.path)

    def environment(self, **more):
        """Return the environment of a service: little of ours, and what its units set."""
        kept = {name: value for name, value in os.environ.items()
                if name in ('PATH', 'LANG') or name.startswith('ROS_')}
        return {**kept, 'IPC_BYPASS_SETUP': str(self.setup),
                'XDG_CACHE_HOME': str(self.path / 'cache'), 'HOME': str(self.path / 'cache'),
                'ROS_LOG_DIR': str(self.path / 'log'), 'PYTHONDONTWRITEBYTECODE': '1',
                'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4', **more}


def limited(capabilities):
    """Return the words before a command that give it USER and these capabilities alone."""
    names = ','.join(['-all', *(f"+{name.removeprefix('CAP_').lower()}"
                                for name in capabilities)])
    return ('setpriv', '--reuid', USER, '--regid', GROUP, '--clear-groups', '--no-new-privs',
            '--inh-caps', names, '--ambient-caps', names, '--bounding-set', names)


def with_pins(folder, home):
    """Return the words before a command that let it see one folder of pins, as its own."""
    return ('unshare', '--mount', '--propagation', 'private', 'sh', '-c', _PINS, 'sh', USER,
            str(folder), str(home.path / 'aside'), str(FOLDER / 'ipc-bypass-pins'))


def with_tun(home):
    """Return the words before a command that give it /dev/net/tun as udev does: for everybody."""
    return ('unshare', '--mount', '--propagation', 'private', 'sh', '-c', _TUN, 'sh',
            str(home.path / 'tun'))


def verify(path):
    """Return what systemd-analyze has to say about a unit."""
    done = subprocess.run(['systemd-analyze', 'verify', '--man=no', str(path)],
                          capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr
