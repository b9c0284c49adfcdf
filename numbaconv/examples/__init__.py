"""Complete small programs, to read and to copy."""
