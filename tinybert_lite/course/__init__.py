"""The course: exercise checks and the environment check."""
