"""The paper's tables and figures, one command each, and the sweeps that it does not show.

A file in `tables/` says what a table compares, what the paper found, and nothing of how: the same files serve every
model. `paper.json` holds the paper's own numbers, as printed.

    tables.py     the files: which tables there are, what their rows are
    trials.py     one row: a strategy, its settings, and what it is given
    subjects.py   who is asked what: a model and a test set
    plan.py       the rows of all tables that differ, each measured once, as parts of a run
    bench.py      a model under what a row is given: a share of the references, another embedder, uniform weights
    measure.py    compute what is missing of a run
    found.py      what a table's rows did, as arrays
    trend.py      does the paper's ordering hold here, tested
    kinds/        what a kind of table adds to its rows: cost, flow, transitions, places among other models
    results.py    a finished table as numbers, from the rows alone
    writing.py    the same as Markdown and CSV
    estimate.py   what all this would take, from a model's shapes alone; foretelling.py prints it
"""
