# %% [markdown]
# # Read a run with pandas
#
# [![Open in Colab](../../docs/images/colab.svg)](https://colab.research.google.com/github/OWNER/r2t2-jax/blob/main/examples/notebooks/read_a_run.ipynb)
#
# Every evaluation writes a folder: `run.json` has the settings, `summary.json` the numbers, and `rows.parquet` a row
# for each question and strategy. Here is how to read them. About two minutes on a CPU.
#
# In Colab, run the next cell once. Elsewhere the environment of the README has the package already.

# %% tags=["skip-execution"]
# %pip install -q "r2t2-jax @ git+https://github.com/OWNER/r2t2-jax" pandas

# %%
import contextlib
import io
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import r2t2_jax
from r2t2_jax.cli.main import main


def r2t2(line: str) -> None:
    """Run `r2t2 LINE`, as a terminal would, but print nothing."""
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["--quiet", *line.split()]) == 0


# %% [markdown]
# ## Make a run
#
# A bank of references, and 200 test questions answered with three strategies: the router's own weights (`base`),
# gradient descent on the neighbors' losses (`ngd`), and equal weights (`uniform`), a control.

# %%
r2t2("bank build --model pocket:narrow --data pocket --limit 600 --out out/bank")
r2t2("eval --model pocket:narrow --bank out/bank --data pocket --limit 200 --strategy base,ngd,uniform --out out/eval")

# %% [markdown]
# ## The numbers

# %%
with open("out/eval/summary.json", encoding="utf-8") as file:
    ((name, summary),) = json.load(file)["models"].items()
table = pd.DataFrame(summary["strategies"]).T[["accuracy", "ci95", "wrong_to_right", "right_to_wrong"]]
print(name, "n =", summary["n"])
table

# %% [markdown]
# ## The rows

# %%
rows = pd.read_parquet("out/eval/rows.parquet")
rows[["strategy", "id", "category", "question", "prediction", "right"]].head()

# %% [markdown]
# Accuracy by family of questions. A family has about 25 questions here, so differences of 20 points may be chance.

# %%
by_family = rows.pivot_table(index="category", columns="strategy", values="right", aggfunc="mean")
by_family = by_family.sort_values("ngd")
plot = by_family.plot.barh(figsize=(7, 4), width=0.8)
plot.set(xlabel="accuracy", ylabel="", xlim=(0, 1))
plot.legend(frameon=False, loc="lower right")
plt.show()
by_family.round(2)

# %% [markdown]
# ## Which answers changed?
#
# One row per question, with the strategies next to each other.

# %%
right = rows.pivot(index="id", columns="strategy", values="right")
pd.crosstab(right["base"], right["ngd"], rownames=["base right"], colnames=["ngd right"])

# %%
wide = rows.pivot(index="id", columns="strategy", values="prediction").join(
    rows.groupby("id")[["question", "answers"]].first()
)
worse = wide[right["base"] & ~right["ngd"]]
worse[["question", "answers", "base", "ngd"]].head()

# %% [markdown]
# ## Where did the weights go?
#
# `router_weights` and `weights` are lists [layers x experts], one layer after the other. The mean over the questions
# of each family, before and after:

# %% tags=["picture"]
experts = r2t2_jax.load("pocket:narrow").model.spec.experts
layers = len(summary["layers"])
moved = rows[rows["strategy"] == "ngd"]
families = sorted(moved["category"].unique())

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for column, title, axis in zip(["router_weights", "weights"], ["router", "ngd"], axes, strict=True):
    weights = np.stack(moved[column].to_list()).reshape(len(moved), layers, len(experts)).mean(axis=1)
    means = pd.DataFrame(weights, columns=experts).groupby(moved["category"].to_numpy()).mean().loc[families]
    picture = axis.imshow(means, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set_title(title, loc="left")
    axis.set_xticks(range(len(experts)), experts)
    axis.set_yticks(range(len(families)), families)
figure.colorbar(picture, ax=axes, label="mean weight")
plt.show()

# %% [markdown]
# The router sends most questions about size and texture to the expert for letters (`glyph`). `ngd` gives those about
# texture to `texture` and those about places to `position`. For size it does not find the expert, and equal weights do
# better. Such a run says more than one accuracy does.
#
# `r2t2 report out/eval` draws all of this and more on one page. The page *File formats* lists every column.
