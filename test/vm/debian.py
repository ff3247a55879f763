"""Packages of any Debian release by apt, with lists of our own and the machine's own mirror."""

from dataclasses import dataclass
import os
from pathlib import Path
import re
import subprocess

#: Debian's names of its releases.
_CODENAMES = ('bullseye', 'bookworm', 'trixie', 'forky', 'sid',
              'oldoldstable', 'oldstable', 'stable', 'testing', 'unstable')
#: The keys of all its releases, where the package debian-archive-keyring puts them.
_KEYS = Path('/usr/share/keyrings/debian-archive-keyring.gpg')
_PATIENCE = 300


class AptError(RuntimeError):
    """Apt cannot, in one line."""


@dataclass(frozen=True)
class Lists:
    """Apt with lists of one Debian release in a folder; every method raises AptError."""

    folder: Path
    options: tuple[str, ...]

    def search(self, pattern):
        """Return the names of packages that match a regular expression."""
        lines = _run('apt-cache', *self.options, 'search', '--names-only', pattern).splitlines()
        return [line.split()[0] for line in lines]

    def depends(self, package):
        """Return the names of packages that a package depends on."""
        text = _run('apt-cache', *self.options, 'depends', package)
        return re.findall(r'Depends: (\S+)', text)

    def unpack(self, package, target):
        """Download a package and unpack its files into a folder."""
        _run('apt-get', *self.options, 'download', package, cwd=self.folder)
        archive = next(self.folder.glob(f'{package}_*.deb'))
        _run('dpkg-deb', '-x', archive, target)
        archive.unlink()


def own_lists(release, folder):
    """
    Return Lists of a Debian release, made in a folder that is not there yet.

    The mirror is the one that this machine's own apt uses for Debian.

    :raises AptError: when it uses none, or the lists cannot be fetched
    """
    sources = folder / 'sources'
    sources.mkdir(parents=True)
    (folder / 'lists').mkdir()
    (sources / 'debian.sources').write_text(
        f'Types: deb\nURIs: {_mirror()}\nSuites: {release}\nComponents: main\n'
        + (f'Signed-By: {_KEYS}\n' if _KEYS.is_file() else ''))
    options = ('-oDir::Etc::SourceList=/dev/null', f'-oDir::Etc::SourceParts={sources}',
               f'-oDir::State::Lists={folder}/lists', f'-oDir::Cache={folder}/cache',
               '-oAPT::Architecture=amd64', '-oAcquire::Languages=none')
    _run('apt-get', *options, 'update', '--error-on=any')
    return Lists(folder, options)


def _mirror():
    """Return the URI of the machine's mirror of Debian."""
    text = _run('apt-get', 'indextargets', '--format', '$(RELEASE) $(REPO_URI)',
                'Created-By: Packages')
    for line in text.splitlines():
        name, uri = line.split(maxsplit=1)
        if name in _CODENAMES:
            return uri
    raise AptError('apt of this machine has no mirror of Debian among its sources')


def _run(*command, cwd=None):
    """Run a command and return what it printed."""
    try:
        return subprocess.run(command, cwd=cwd, check=True, timeout=_PATIENCE, text=True,
                              capture_output=True, stdin=subprocess.DEVNULL,
                              env={**os.environ, 'LC_ALL': 'C'}).stdout
    except subprocess.SubprocessError as error:
        lines = (getattr(error, 'stderr', None) or '').strip().splitlines()
        reason = lines[-1] if lines else str(error).rpartition("' ")[2]
        raise AptError(f'{command[0]}: {reason}') from error
