"""The pipeline: configuration, phases, run folders, evaluation, model cards."""
