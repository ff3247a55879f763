"""Compile the programs with the package, for machines without a compiler."""
