"""What the launch files of graphs have in common: their arguments, checks and actions."""
