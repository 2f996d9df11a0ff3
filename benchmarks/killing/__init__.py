"""Processes that are killed while they write to an index, and what is left of it.

toys        encoders that cost nothing, and batches so small that there are many of them
world       the files that are indexed, before and after they change
operations  what writes to an index
steps       counts what a process does to files and catalog, and kills it at one of these steps
victim      the process that is killed
content     what an index holds, ids aside
trial       one kill, and all that is asked of what is left
"""
