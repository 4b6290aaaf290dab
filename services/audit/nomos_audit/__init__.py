"""The single writer of the log."""
