"""slurm, and what --slurm and a Slurm job's run mean to the other commands."""
