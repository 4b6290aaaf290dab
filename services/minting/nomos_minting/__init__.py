"""Signs UCAN delegations after a fresh allow."""
