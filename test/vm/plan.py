"""Which kernels and suites CI has time for."""

from dataclasses import dataclass

from vm.suites import SUITES

#: Seconds until a machine of CI is given up: it has only what processor time is left.
PATIENCE = 2400.0


@dataclass(frozen=True)
class Chosen:
    """Suites by name; `quick`: of each only the tests that CI has time for."""

    suites: tuple[str, ...]
    quick: bool = True


#: The oldest kernel that is served, Debian 12's own with the core of each path, and a newer one.
IN_CI = {'5.10': Chosen(tuple(SUITES)), '6.1': Chosen(('tcp', 'udp', 'trace'), quick=False),
         '6.12': Chosen(tuple(SUITES))}
