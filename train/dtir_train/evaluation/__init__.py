"""The paper's experimental section, run again on a trained system: a module a table.

Every command reads a system from an exported bundle or from a run, and leaves JSON, Markdown and
a picture.
"""
