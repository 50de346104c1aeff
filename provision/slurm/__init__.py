"""A run as a Slurm job: what is wanted of Slurm, the file that sbatch takes, and its answers."""
