"""No program comes near the limit of the kernel's verifier, in any form that is loaded."""

import json
import platform

from ipc_bypass.kernel.errors import UnsupportedError, VerifierError
from ipc_bypass.kernel.prebuilt_files import from_dict, is_open
from ipc_bypass.kernel.verifier_cost import costs, LIMIT, processed
from ipc_bypass.prebuilt.catalogue import entries
import pytest
from support.capability import need_capabilities
from vm.programs import file_of, prepared

#: A fifth of the limit has to be left.
_MOST = LIMIT * 4 // 5
# Numbers that the build leaves open: sizes of maps have to be some.
_OPEN = {'MAX_FLOWS': 1024, 'MAX_SOCKETS': 1024}


@pytest.fixture(scope='module')
def folder():
    """Return where the compiled programs are."""
    need_capabilities()
    return prepared()


def _label(entry):
    """Return a program file's name, with what of its definitions is a choice."""
    chosen = [f'{name}={value}' for name, value in sorted(entry.definitions.items())
              if not is_open(name, value) and not name.startswith(('OFFSET_', 'MASK_'))
              and isinstance(value, int) and value < 64]
    return f"{entry.source.removesuffix('.bpf.c')} {' '.join(chosen)}".strip()


def test_every_program_is_far_from_the_limit(folder, request):
    """The instructions processed of all are told, and at most four fifths of the limit."""
    found, refused = {}, {}
    for entry in entries(platform.machine()):
        prebuilt = from_dict(json.loads(file_of(entry, folder).read_text()))
        definitions = {name: _OPEN.get(name, 1) if is_open(name, value) else value
                       for name, value in entry.definitions.items()}
        try:
            with prebuilt.load(entry.programs, list(prebuilt.maps), definitions) as loaded:
                for name, cost in costs(prebuilt.template(entry.programs, definitions),
                                        loaded).items():
                    found[name] = max(cost, found.get(name, 0))
        except (VerifierError, UnsupportedError) as error:
            refused[_label(entry)] = str(error)
            if not error.log and isinstance(error, VerifierError):
                raise
    request.node.user_properties += [('instructions', found), ('refused', refused)]
    assert found
    assert all(cost > 0 for cost in found.values()), found
    near = {name: cost for name, cost in found.items() if cost > _MOST}
    assert not near, f'within a fifth of the limit of {LIMIT}: {near}'
    too_large = {name: reason for name, reason in refused.items() if 'too large' in reason}
    assert not too_large


def test_a_log_is_read():
    """The figure of kernels that tell it in the verifier's log only."""
    log = 'func#0 @0\nprocessed 1234 insns (limit 1000000) max_states_per_insn 4 total_states 9\n'
    assert processed(log) == 1234
    with pytest.raises(ValueError, match='does not tell'):
        processed('')
