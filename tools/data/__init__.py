"""``python -m tools.data``: list, fetch and verify the data sets."""
