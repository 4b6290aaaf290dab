"""Where the archive stands: one port, a folder and an S3-compatible store."""
