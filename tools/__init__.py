"""Commands for users: ``python -m tools.<name> --help``."""
