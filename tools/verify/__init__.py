"""Whether weights, data and machine give what is published: ``python -m tools.verify``."""
