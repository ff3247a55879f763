"""The pool: shared memory that kernel programs write and consumers read."""
