"""The plainest owner of a ring: by the layout alone, to see what a writer wrote."""

import numpy as np


class PoolOwner:
    """Takes the descriptors of one ring of a PoolMemory, and gives their slots back."""

    def __init__(self, memory, ring):
        """Begin where the ring's cursor stands."""
        self.memory, self.ring = memory, ring

    def take(self, most=4096):
        """Return a copy of the descriptors that are there, in their order."""
        ring, entries = self.memory.rings[self.ring], self.memory.ring_entries
        cursor = int(ring['cursor'])
        count = min(int(ring['head']) - cursor, most)
        places = (cursor + np.arange(count)) % entries
        found = self.memory.descriptors[self.ring][places]
        assert found['number'].tolist() == list(range(cursor + 1, cursor + count + 1))
        ring['cursor'] = cursor + count
        return found

    def payload(self, descriptor):
        """Return the payload of a descriptor as bytes."""
        return bytes(self.memory.payload(int(descriptor['slot']), int(descriptor['length'])))

    def release(self, found):
        """Give slots back; return how many were still ours."""
        mine = found[self.memory.released[found['slot']] < found['sequence']]
        self.memory.released[mine['slot']] = mine['sequence']
        return len(mine)
