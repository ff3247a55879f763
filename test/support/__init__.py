"""What tests share: namespaces, connections, processes with traffic, the check for leaks."""
