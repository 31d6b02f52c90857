"""Reports, tables and figures of runs, banks and answers."""
