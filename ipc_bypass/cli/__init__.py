"""The `ipc-bypass` command and its sub-commands."""
