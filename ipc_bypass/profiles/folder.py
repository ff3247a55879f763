"""The folder that a profile is written to, with all that a process needs to use it."""

from __future__ import annotations

from dataclasses import dataclass
import json
import os
from pathlib import Path
import shlex
import tempfile

from ipc_bypass.kernel.trusted_paths import distrust
from ipc_bypass.profiles import kinds, run_with_port
from ipc_bypass.profiles.settings import ProfileError, Settings

RUNNER = 'run_with_port.py'
RULES = 'rules.yaml'
ENVIRONMENT = 'environment'
#: Where containers see the folder.
CONTAINER_FOLDER = '/ipc_bypass'
_RUNNER_SOURCE = Path(run_with_port.__file__)


@dataclass(frozen=True)
class Written:
    """
    A profile on disk.

    :param kind: of KINDS
    :param folder: with the files below
    :param file: the profile
    :param files: all of them, by name
    """

    kind: str
    folder: Path
    file: Path
    files: tuple[str, ...]

    @property
    def command_prefix(self) -> tuple[str, ...]:
        """Return the words that start a command with the profile and a port of its own."""
        return ('python3', str(self.folder / RUNNER), '--')


def default_folder(kind: str, domain: int = 0) -> Path:
    """Return where profiles of this user go: /etc/ipc_bypass for root, else ~/.config."""
    name = f'{kind}-{domain}' if domain else kind
    if os.geteuid() == 0:
        return Path('/etc/ipc_bypass/profiles', name)
    home = os.environ.get('XDG_CONFIG_HOME') or Path.home() / '.config'
    return Path(home, 'ipc_bypass', 'profiles', name)


def write(kind: str, settings: Settings, folder: Path | None = None, *,
          seen_at: str = '', extra: dict[str, str] | None = None) -> Written:
    """
    Write a profile, its runner, its environment and the rules for it; return a Written.

    :param kind: of KINDS
    :param folder: made where it is missing; default_folder(kind) when left out
    :param seen_at: path of the folder for those who use it, its own when left out
    :param extra: more files, text by name
    :raises ProfileError: where that cannot be written
    """
    folder = (folder or default_folder(kind, settings.domain)).absolute()
    name = kinds.KINDS[kind].FILE
    files = {**texts(kind, settings, seen_at or str(folder)), **(extra or {})}
    reason = distrust(folder)
    if reason:
        # Processes run the runner that is put there.
        raise ProfileError(f'write the profile to {folder}', reason,
                           next_step='give a folder of your own with --output')
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        for file_name, text in files.items():
            _replace(folder / file_name, text)
    except OSError as error:
        raise ProfileError(f'write the profile to {folder}', errno=error.errno or 0,
                           next_step='give another folder with --output') from error
    return Written(kind, folder, folder / name, tuple(sorted(files)))


def texts(kind: str, settings: Settings, seen_at: str) -> dict[str, str]:
    """Return what the files of a profile hold, by name; `seen_at` is their folder's path."""
    name = kinds.KINDS[kind].FILE
    return {
        name: kinds.text(kind, settings),
        RUNNER: _RUNNER_SOURCE.read_text(),
        run_with_port.DESCRIPTION: description(kind, settings),
        ENVIRONMENT: ''.join(f'{key}={value}\n' for key, value
                             in variables(kind, f'{seen_at}/{name}').items()),
        RULES: rules(settings)}


def description(kind: str, settings: Settings) -> str:
    """Return what the runner reads, as JSON."""
    ports = settings.ports
    return json.dumps({
        'kind': kind, 'file': kinds.KINDS[kind].FILE, 'ports': [ports[0], ports[-1]],
        'domain': settings.domain,
        'peers': list(settings.peers) if kind == 'cyclonedds' else [],
        'replace': kinds.replaced_by_port(kind, settings),
        'environment': kinds.environment(kind, '@FILE@')}, indent=2) + '\n'


def variables(kind: str, path: str) -> dict[str, str]:
    """
    Return the environment for processes that are not started by the runner.

    They take a port of the kernel's choice, which no rule covers.
    """
    return {**kinds.environment(kind, path), run_with_port.PORT_VARIABLE: '0'}


def exports(kind: str, path: str) -> str:
    """Return the same as lines for a shell's eval."""
    return ''.join(f'export {name}={shlex.quote(value)}\n'
                   for name, value in variables(kind, path).items())


def rules(settings: Settings) -> str:
    """Return the parameter file of /ipc_bypass that covers the profile's ports, as YAML."""
    ports = settings.ports
    return ('# For `ipc-bypass up --params-file` and ipc_bypass.launch.py params_file:=\n'
            '/**:\n  ros__parameters:\n'
            f"    rules: ['tcp:{ports[0]}-{ports[-1]}:accelerate']\n"
            '    domains: []\n'
            '    udp_path: loopback\n')


def _replace(path: Path, text: str) -> None:
    """Write a file in one step: who reads meanwhile sees the old one or the new one."""
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(number, 'w') as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
