"""Stored records → tables and pictures, on any computer and without torch.

`text` gives tables for a terminal; `write` fills the folder `reports/`. They are imported apart, because a terminal
table needs neither pandas nor matplotlib.
"""
