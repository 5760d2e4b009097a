# No block at all.
