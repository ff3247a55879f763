"""profile.json and the profile beside it, as the runner reads them."""

import atexit
import json
import os
from pathlib import Path
import shutil
import tempfile

from ipc_bypass.profiles import run_with_port

#: One of these inputs takes as long as so many of the others.
COST = 8
_SOUND = {'kind': 'cyclonedds', 'file': 'cyclonedds.xml', 'ports': [1, 2], 'domain': 0,
          'peers': [], 'replace': ['<Port>', '<Port>@PORT@'],
          'environment': {'CYCLONEDDS_URI': 'file://@FILE@'}}
# Names are not looked up and ports are not reserved for each input: a process keeps its ports.
run_with_port.reserve = lambda ports: ports[0]
_folder = Path(tempfile.mkdtemp(prefix='ipc_bypass_fuzz_'))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ['XDG_RUNTIME_DIR'] = str(_folder)  # where a process's own copy goes
(_folder / 'cyclonedds.xml').write_text('<Port></Port>\n')
_description = _folder / run_with_port.DESCRIPTION


def seeds():
    """Yield descriptions: whole ones, and ones with a member of another kind."""
    yield json.dumps(_SOUND).encode()
    for name in _SOUND:
        for value in (None, 5, -1, 'x', [], [1, 2], ['a', None], [7, 6], {}, {'a': 1}, True,
                      '../../x', 'a\0b', '\ud800', [1.5, 2], [[1], [2]], ['', '']):
            yield json.dumps({**_SOUND, name: value}).encode()
    yield b'[' * 100_000
    yield b'{"ports": ' + b'9' * 5000 + b'}'


def one(data):
    """Whatever stands there: it is what can be used, or Unusable says why in one line."""
    _description.write_bytes(data)
    try:
        found = run_with_port.read(str(_folder))
    except run_with_port.Unusable as error:
        assert '\n' not in str(error)
        return
    first, last = found['ports']
    assert 0 < first <= last < 65536
    for replaced in ([], found['replace']):
        trial = {**found, 'ports': [1, 1], 'peers': [], 'replace': replaced}
        _description.write_text(json.dumps(trial))
        try:
            environment = run_with_port.prepare(str(_folder))
        except run_with_port.Unusable as error:
            assert '\n' not in str(error)
            continue
        assert all(isinstance(value, str) for value in environment.values())
        for text in (*environment, *environment.values()):
            assert b'\0' not in os.fsencode(text)
    run_with_port.without_peers('"a:1"\n', found['peers'])
    if not found['peers']:
        assert run_with_port.silent(found['peers'], last) == []
