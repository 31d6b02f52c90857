# %% [markdown]
# # Record, map and steer experts
#
# [![Open in Colab](../../docs/images/colab.svg)](https://colab.research.google.com/github/OWNER/r2t2-jax/blob/main/examples/notebooks/record_map_steer.ipynb)
#
# Which experts does a model choose for a token? Do questions of one kind have experts of their own? And what happens
# if these are used more? The model is `pocket:sparse`: four layers of 16 experts, of which each token uses two. About
# two minutes on a CPU.
#
# In Colab, run the next cell once. Elsewhere the environment of the README has the package already.

# %% tags=["skip-execution"]
# %pip install -q "r2t2-jax @ git+https://github.com/OWNER/r2t2-jax" pandas

# %%
import matplotlib.pyplot as plt
import pandas as pd

from r2t2_jax.cli.main import main
from r2t2_jax.datasets import load_dataset


def r2t2(line: str) -> None:
    """Run `r2t2 LINE`, as a terminal would."""
    assert main(["--quiet", *line.split()]) == 0


# %% [markdown]
# ## Record
#
# The model answers 100 questions, and every choice of its gates is stored.

# %%
r2t2("routes record --model pocket:sparse --data pocket --limit 100 --out out/routes")

# %% [markdown]
# A recording is a folder of Parquet files, with one row per question. `experts` holds the ids of the chosen experts,
# [tokens][layers][2].

# %%
routes = pd.read_parquet("out/routes/batches")
routes[["id", "category", "prediction"]].assign(tokens=routes["tokens"].map(len)).head()

# %% [markdown]
# ## Map
#
# `experts map` compares groups: kinds of questions, and kinds of tokens. `usage` is the share of tokens that choose
# an expert, and `usage_q` says whether a difference is more than chance.

# %%
r2t2("experts map out/routes --by category,modality --out out/map")

# %%
experts = pd.read_parquet("out/map/experts.parquet")


def heat_maps(factor: str, groups: list[str], limit: float) -> None:
    """Draw how much more each group uses each expert than the mean of all; a dot marks q below 0.05."""
    figure, axes = plt.subplots(1, len(groups), figsize=(3 * len(groups), 1.9), layout="constrained", sharey=True)
    for plot, group in zip(axes, groups, strict=True):
        part = experts[(experts["factor"] == factor) & (experts["group"] == group)]
        shape = (part["layer"].nunique(), part["expert"].nunique())
        difference = part["usage_difference"].to_numpy().reshape(shape)
        picture = plot.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        rows, columns = (part["usage_q"].to_numpy().reshape(shape) < 0.05).nonzero()
        plot.plot(columns, rows, "k.", markersize=3)
        plot.set_title(group, loc="left")
        plot.set(xlabel="expert", yticks=range(shape[0]))
    axes[0].set_ylabel("layer")
    figure.colorbar(picture, ax=axes, label="usage, difference")
    plt.show()


# %% tags=["picture"]
heat_maps("modality", ["image", "text", "answer"], 0.6)

# %% [markdown]
# Image tokens have experts of their own, and so do the tokens of the answer. Kinds of questions differ much less:

# %%
heat_maps("category", ["size", "spatial", "color"], 0.15)

# %% [markdown]
# ## Steer
#
# A steering file changes the choices of the gates. `experts steer` writes one that boosts the experts which questions
# about size use more than others.

# %%
r2t2("experts steer --from out/map --task size --layers 1-2 --lambda 0.5 --out out/steer.json")
r2t2("routes record --model pocket:sparse --data pocket --limit 100 --steer out/steer.json --out out/steered")
steered = pd.read_parquet("out/steered/batches")

# %% [markdown]
# Did the routing move? The second number of each layer is the share of choices that chance alone would move.

# %%
r2t2("experts compare out/routes out/steered --out out/moved")

# %% [markdown]
# Did the answers change, and did they get better?

# %%
labels = {sample.id: sample.answers[0] for sample in load_dataset("pocket", "test", 100, seed=0)}
answers = routes[["id", "category", "prediction"]].merge(
    steered[["id", "prediction"]], on="id", suffixes=("", "_steered")
)
answers["label"] = answers["id"].map(labels)
print("answers that changed:", (answers["prediction"] != answers["prediction_steered"]).sum(), "of", len(answers))
print("right before:        ", (answers["prediction"] == answers["label"]).sum())
print("right when steered:  ", (answers["prediction_steered"] == answers["label"]).sum())

# %% [markdown]
# The gates obey: more tokens go to the boosted experts. The answers hardly change, and they do not improve. That an
# expert is used more for a kind of question does not mean that the kind gains from using it more; `r2t2 eval --steer`
# is the way to find out, with intervals. The page *Record, map and steer experts* has all rules of steering files,
# and the formats of other tools.
