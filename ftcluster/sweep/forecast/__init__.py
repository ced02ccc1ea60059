"""What a sweep is going to take, before it starts: memory, time, GPU-hours, money, disk, and who will run where.

imagined.py     the trials a sweep would have, and which of them are alike
fitting.py      which of them do not fit their GPUs, and what would
disk.py         how much a sweep keeps at most, and in the end
probe.py        a few real steps of each kind of trial, on hosts of the cluster
simulation.py   the sweep played through with those times, by its own rules
forecast.py     all of it together
"""
