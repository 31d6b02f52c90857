# %% [markdown]
# # Re-route one question, and look at it
#
# [![Open in Colab](../../docs/images/colab.svg)](https://colab.research.google.com/github/OWNER/r2t2-jax/blob/main/examples/notebooks/reroute_one_question.ipynb)
#
# A mixture of experts answers a question about an image wrongly, because its router chooses the wrong expert. Similar
# questions that it answers correctly show better routing weights. No parameter changes, and the label of the question
# is not used. About two minutes on a CPU.
#
# In Colab, run the next cell once. Elsewhere the environment of the README has the package already.

# %% tags=["skip-execution"]
# %pip install -q "r2t2-jax @ git+https://github.com/OWNER/r2t2-jax"

# %%
import matplotlib.pyplot as plt
import numpy as np

import r2t2_jax
from r2t2_jax.datasets import load_dataset

# %% [markdown]
# ## The scene
#
# The package ships a small vision-language model, `pocket:narrow`, and a generator of scenes with questions.

# %%
samples = load_dataset("pocket", "scene", 8, seed=1)  # eight questions about one scene
image = samples[0].pixels()

figure, axes = plt.subplots(figsize=(3.2, 3.2))
axes.imshow(image, interpolation="nearest")
axes.set_axis_off()
plt.show()
for sample in samples:
    print(f"{sample.question:71} {sample.answers[0]}")

# %% [markdown]
# ## One question
#
# The router of this model was trained on questions about color and shape only. Here is a question about a texture.

# %%
model = r2t2_jax.load("pocket:narrow")
prediction = r2t2_jax.answer(model, image, "what pattern is on the circle ?")
print("router:   ", prediction.before)
print("re-routed:", prediction.after)

# %% [markdown]
# The circle in the scene is solid: re-routing mends the answer. It looked up similar questions about *other* images,
# which the model answers correctly, and moved the routing weights to where these are answered best. Their answers
# differ, so no answer is copied.

# %%
for neighbor in prediction.neighbors:
    print(f"{neighbor.question:40} {neighbor.answer:10} weight {neighbor.share:.2f}")

# %% [markdown]
# ## The weights before and after


# %%
def show_routing(prediction: r2t2_jax.inference.Prediction) -> None:
    """Draw the routing weights before and after as two heat maps on one scale."""
    _, axes = plt.subplots(1, 2, figsize=(9, 2.2), layout="constrained", sharey=True)
    columns = [("router", prediction.router_weights), (prediction.strategy, prediction.weights)]
    for plot, (title, weights) in zip(axes, columns, strict=True):
        plot.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        plot.set_title(title, loc="left")
        plot.set_xticks(range(len(prediction.experts)), prediction.experts)
        plot.set_yticks(range(len(prediction.layers)), prediction.layers)
        for (layer, expert), weight in np.ndenumerate(weights):
            color = "white" if weight > 0.5 else "black"
            plot.text(expert, layer, f"{weight:.2f}", ha="center", va="center", color=color, fontsize=9)
    plt.show()


# %% tags=["picture"]
show_routing(prediction)

# %% [markdown]
# The router gives the question to the expert for letters (`glyph`). After re-routing, `texture` names the pattern and
# `shape` finds the circle.
#
# ## The way there
#
# Ten steps of gradient descent lower the loss of the *neighbors*.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
left.plot(prediction.losses, marker="o")
left.set(xlabel="step", ylabel="loss of the neighbors")
mean = prediction.path.mean(axis=1)  # over layers: [steps + 1, experts]
for expert, name in enumerate(prediction.experts):
    right.plot(mean[:, expert], label=name)
right.set(xlabel="step", ylabel="mean weight", ylim=(0, 1))
right.legend(ncols=2, fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# ## Weights of your own
#
# `routing=` sets the weights by hand: one row for all layers, or a row for each layer.

# %%
choices = {
    "color": [1, 0, 0, 0, 0, 0],
    "texture": [0, 0, 1, 0, 0, 0],
    "color and texture": [0.5, 0, 0.5, 0, 0, 0],
    "shape and texture": [0, 0.5, 0.5, 0, 0, 0],
    "all": [1 / 6] * 6,
}
for name, weights in choices.items():
    print(f"{name:20} {r2t2_jax.answer(model, image, prediction.question, routing=weights).after}")

# %% [markdown]
# Several mixtures with `texture` give the right answer; too much of `color` spoils it.
#
# ## It does not always help
#
# All eight questions of the scene. One scene is an anecdote: `r2t2 demo` asks 1,000 questions, with intervals and
# controls.

# %%
predictions = r2t2_jax.answer(model, image, [sample.question for sample in samples])
print(f"{'question':71} {'label':10} {'router':10} re-routed")
for sample, each in zip(samples, predictions, strict=True):
    print(f"{sample.question:71} {sample.answers[0]:10} {each.before:10} {each.after}")
