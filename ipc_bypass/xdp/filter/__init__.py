"""The filter slot of the root array: rules, the maps that hold them, and the same in Python."""
