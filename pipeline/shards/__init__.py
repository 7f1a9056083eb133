"""The shards' bytes: written, indexed, checked, fetched."""
