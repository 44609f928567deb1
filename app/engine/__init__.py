"""Generates tokens for validated requests; knows nothing of HTTP."""

import os

# oneMKL chooses the order of sums by the alignment of its buffers, which differs between threads, unless it is asked
# for reproducible results before its first call. Attention in float32 on an AMD CPU depended on the thread.
os.environ.setdefault("MKL_CBWR", "AUTO")
