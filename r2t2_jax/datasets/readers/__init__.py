"""One module per source: its official files, its license, the function that reads it, and its `DATASETS`."""
