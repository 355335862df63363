"""What the ranks of a process group compute together, and where the shards of a DTensor are in the whole."""
