"""The networks, what they cost, and the file they live in."""
