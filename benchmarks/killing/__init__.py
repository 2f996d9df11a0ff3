"""Processes that are killed while they write to an index, and checks of what they leave.

toy_encoders    encoders that cost nothing, and batches so small that there are many of them
files           the files that are indexed, before and after they change
operations      what writes to an index
steps, steps.c  count what a process does to files and catalog, and kill it at one of these steps
phases          what a step belongs to, for the table
killed_process  the process that is killed
content         what an index holds, apart from ids
old_schemas     catalogs of older versions
trial           one kill, and all checks after it
"""
