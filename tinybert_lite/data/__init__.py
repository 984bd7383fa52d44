"""Data: assets, tasks, user files, cleaning and splits, corpus, tokenized datasets."""
