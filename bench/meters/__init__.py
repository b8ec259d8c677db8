"""Meters: one is one file with `METER`. A meter only reads: at a window's start and at its stop."""
