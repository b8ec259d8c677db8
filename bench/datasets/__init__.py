"""Data sets: one is one file with `SPEC`. Its file name is what the user types after `--dataset`."""
