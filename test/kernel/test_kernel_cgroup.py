"""The mount point of cgroup v2."""

import os

from ipc_bypass.kernel.cgroup import find_cgroup2, open_cgroup
from ipc_bypass.kernel.errors import CgroupError
import pytest

HYBRID = """\
22 1 0:20 / /sys rw - sysfs sysfs rw
30 22 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""


def test_this_machine_has_one():
    path = find_cgroup2()
    assert os.path.exists(os.path.join(path, 'cgroup.controllers'))
    os.close(open_cgroup(path))


@pytest.mark.parametrize('text, expected', [
    (HYBRID, '/sys/fs/cgroup/unified'),
    ('30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n', '/sys/fs/cgroup'),
    ('30 22 0:26 / /a\\040b/c\\134d rw - cgroup2 cgroup2 rw\n', '/a b/c\\d'),
    # A container's part of the hierarchy is taken only where the whole is not mounted.
    ('30 22 0:26 /part /a rw - cgroup2 x rw\n31 22 0:26 / /longer rw - cgroup2 x rw\n', '/longer'),
    ('30 22 0:26 /part /a rw - cgroup2 x rw\n', '/a'),
])
def test_forms_of_mountinfo(tmp_path, text, expected):
    (tmp_path / 'mountinfo').write_text(text)
    assert find_cgroup2(str(tmp_path / 'mountinfo')) == expected


@pytest.mark.parametrize('text', ['', HYBRID.replace('cgroup2', 'cgroup')])
def test_none_names_the_command(tmp_path, text):
    (tmp_path / 'mountinfo').write_text(text)
    with pytest.raises(CgroupError, match='mount -t cgroup2'):
        find_cgroup2(str(tmp_path / 'mountinfo'))


def test_no_proc(tmp_path):
    with pytest.raises(CgroupError, match='mount /proc'):
        find_cgroup2(str(tmp_path / 'nothing'))


def test_a_path_that_is_no_cgroup(tmp_path):
    with pytest.raises(CgroupError, match='No such file'):
        open_cgroup(str(tmp_path / 'nothing'))
