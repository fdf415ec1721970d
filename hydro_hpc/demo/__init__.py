"""`hydro demo`: the whole road, on a real private Slurm cluster of this host."""
