"""Data on disk: packed shards, the published shard format, statistics and the loader.

Nothing here imports torch, except the published-format reader, and that only when it reads.
"""
