"""`mmalign plan`: memory, disk and time of a run, beside what there is."""
