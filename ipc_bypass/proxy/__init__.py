"""TCP forwards: two sockets spliced in user space, in the kernel, or left out altogether."""
