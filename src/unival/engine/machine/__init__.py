"""Where a run happens: one process, several ranks, a job of Slurm."""
