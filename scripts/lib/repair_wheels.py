"""
Point the CMake exports of the ROS 2 wheels at this machine's headers.

The wheels name the include folders of the machine that built them
(/opt/python/cp311-cp311/...), and CMake refuses an include folder that does not exist.
"""

import pathlib
import re
import sys
import sysconfig

import numpy

BUILDER_NUMPY = re.compile(r'/opt/python/[^;"]*/numpy/[^;"]*include')
BUILDER_PYTHON = re.compile(r'/opt/python/[^;"]*/include/python[0-9.]+')


def main():
    """Rewrite share/*/cmake/*Export.cmake under this Python's prefix."""
    repaired = 0
    for export in pathlib.Path(sys.prefix).glob('share/*/cmake/*Export.cmake'):
        text = export.read_text()
        fixed = BUILDER_NUMPY.sub(numpy.get_include(), text)
        fixed = BUILDER_PYTHON.sub(sysconfig.get_path('include'), fixed)
        if fixed != text:
            export.write_text(fixed)
            repaired += 1
    print(f'{repaired} CMake exports repaired')


if __name__ == '__main__':
    main()
