"""The paper's tables and figures, one command each, and the sweeps that it does not show.

A file in `tables/` says what a table compares, what the paper found, and nothing of how: the same files serve every
model. `paper.json` holds the paper's own numbers, as printed.

    tables.py     the files: which tables there are, what their rows are
    trials.py     one row: a strategy, its settings, and what it is given
    subjects.py   who is asked what: a model, its references and a test set, encoded once
    plan.py       the rows of all tables that differ, each measured once, as parts of a run
    bench.py      a subject under what a row is given: a share of the references, another embedder, uniform weights
    measure.py    compute what is missing of a run
    trend.py      does the paper's ordering hold here, tested
    results.py    a finished table as numbers, from the rows alone
    writing.py    the same as Markdown and CSV
"""
