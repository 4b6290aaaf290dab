"""A witness of logs: remembers the newest checkpoint of each, and cosigns what continues it (c2sp.org/tlog-witness)."""
