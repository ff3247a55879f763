"""Holds connections until it is told to let them go: `flood_process.py PORT COUNT`."""

from pathlib import Path
import sys

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from floods import hold, release  # noqa: E402
from support.processes import reply, serve  # noqa: E402


def main():
    """Open them, tell how many, serve."""
    port, count = int(sys.argv[1]), int(sys.argv[2])
    opened = []

    def start():
        opened.extend(hold(port, count))
        return len(opened[1])

    reply(start)
    serve({'release': lambda: release(*opened)})


if __name__ == '__main__':
    main()
