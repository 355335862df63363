"""Collectives with derivatives, checks that ranks agree, and the positions of shards in a DTensor."""
