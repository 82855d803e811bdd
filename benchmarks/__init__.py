"""Speed and memory, ours beside the plain computation."""
