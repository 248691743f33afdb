"""The ``simulmask:`` block, and simulmask.json, which travels with every model."""
