"""A root array in a process of its own, as a node has it."""

import json

from support.processes import Script


class ArrayProcess(Script):
    """
    Holds the array of an interface, with a program in slot 2.

    `program` of what it answered is the id of that program.
    """

    def __init__(self, interface, pin_directory, program, *, prefix=()):
        """
        Start it; `interface` is attached natively, '' stands for one of number 1 without.

        :param program: a SlotProgram
        :param prefix: words before the command, as of Namespace.command
        """
        super().__init__('array_process.py', interface, str(pin_directory), json.dumps(
            [str(program.source), program.program]), prefix=prefix)
        self.objects = self.answer()
