"""The one engine for long work: a plan, shards of rows, a lock, resumption, and what a run left behind."""
