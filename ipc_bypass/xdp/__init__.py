"""XDP programs in the slots of a root array, AF_XDP sockets, and the path between containers."""
