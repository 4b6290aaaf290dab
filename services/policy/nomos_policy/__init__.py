"""The policy decision point."""
