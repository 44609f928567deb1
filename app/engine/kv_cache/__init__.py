"""The KV cache: one preallocated tensor in which every sequence has consecutive slots, and cached prompt prefixes."""
