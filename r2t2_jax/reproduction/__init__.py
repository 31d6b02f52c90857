"""The paper's tables and figures, one command each, and sensitivity tables that the paper does not have.

A file in `tables/` states what a table compares and the paper's table of the same rows; the same files serve every
model. `paper.json` holds the paper's printed numbers.

    paper.py       the paper's numbers
    spec.py        reads the files of `tables/`: the tables, their rows and the condition of each row
    plan.py        the evaluation targets (model and test set) and the distinct measurements of all tables
    conditions.py  prepares model and bank for a condition: a share of the references, another embedder, uniform weights
    measure.py     computes the missing measurements of a run
    table_data.py  the measured rows of one table as arrays
    trend.py       tests whether the paper's ordering holds
    kinds/         what a kind of table adds to its rows: cost, flow, transitions, leaderboard
    results.py     a finished table as JSON numbers
    export.py      a finished table as Markdown and CSV
    estimate.py    predicts the cost of a reproduction from a model's shapes
"""
