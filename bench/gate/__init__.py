"""`bench gate`: is the head slower than the base, told side by side on one machine, without crying wolf.

Nothing is named here: each part is imported from its own file.
"""
