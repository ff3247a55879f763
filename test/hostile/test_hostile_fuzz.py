"""The fuzz targets on their corpus and the same few thousand mutations each time."""

import json

from mutations import CORPUS, targets

#: Mutations of a cheap target; see COST in the others.
MUTATIONS = 2000
#: Bytes of one target's corpus.
MOST = 16 << 10


def test_nothing_of_the_corpus_fails(run_script):
    """In a process of its own, and a network namespace, for what an input may bring about."""
    names = targets()
    assert len(names) > 8
    code, said, errors = run_script('replay.py', MUTATIONS, *names)
    found = {entry['name']: entry for entry in map(json.loads, said.splitlines())}
    failed = [f"{name}: {entry['failed']}" for name, entry in found.items() if entry['failed']]
    assert not failed, '\n'.join([*failed, errors[-4000:]])
    assert code == 0 and set(found) == set(names), errors[-4000:]
    assert all(entry['tried'] > 200 for entry in found.values()), found


def test_the_corpus_is_small():
    """A few kilobytes a target, and each of them a target's."""
    folders = {folder.name: sum(path.stat().st_size for path in folder.iterdir())
               for folder in CORPUS.iterdir() if folder.is_dir()}
    assert set(folders) <= set(targets())
    assert all(size <= MOST for size in folders.values()), folders
