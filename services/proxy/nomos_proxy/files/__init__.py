"""Files of this machine: which volume a tenant has, how a path is walked without links, what each operation does."""
