"""The weights that a model's authors released, read into our names, so that published models can be measured.

A file is recognised by what it holds, never by its name, and nothing in it is executed. Start at `importing`.
"""
