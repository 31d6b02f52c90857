# %% [markdown]
# # Your own mixture of experts, in twenty lines
#
# [![Open in Colab](../../docs/images/colab.svg)](https://colab.research.google.com/github/OWNER/r2t2-jax/blob/main/examples/notebooks/own_moe.ipynb)
#
# `reroute` needs the loss of one sample as a JAX function of its routing weights, and arrays. Here three linear
# experts predict a number, and each is right about one topic. The router does not know the topics: it gives every
# expert the same weight. Less than a minute on a CPU.
#
# In Colab, run the next cell once. Elsewhere the environment of the README has the package already.

# %% tags=["skip-execution"]
# %pip install -q "r2t2-jax @ git+https://github.com/OWNER/r2t2-jax"

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from r2t2_jax import ReferenceBank, reroute

# %% [markdown]
# ## The model and its samples


# %%
def answer_loss(params: jax.Array, features: jax.Array, weights: jax.Array, answer: jax.Array) -> jax.Array:
    """The squared error of one sample; weights [1 layer, 3 experts]."""
    return (weights[0] @ (params @ features) - answer) ** 2


params = jax.random.normal(jax.random.key(0), (3, 8))  # three experts of eight inputs
x = jax.random.normal(jax.random.key(1), (60, 8))
topic = jax.nn.one_hot(jnp.arange(60) % 3, 3)  # which expert is right about each sample
truth = ((x @ params.T) * topic).sum(axis=1)

# %% [markdown]
# ## The bank, and re-routing
#
# A reference bank holds samples with known answers and the routing weights with which the model answers them well.
# The embeddings say which samples resemble each other; here that is the topic. The last 20 samples are new: their
# answers are not given to `reroute`.

# %%
bank = ReferenceBank(x[:40], truth[:40], routing=topic[:40, None], embeddings=topic[:40])
router = jnp.full((20, 1, 3), 1 / 3)
result = reroute(answer_loss, params, bank, x[40:], router, topic[40:])

# %% [markdown]
# `preset="auto"`, the default, compared three presets on left-out references and says which it uses. The new weights
# are `result.weights` [20 samples, 1 layer, 3 experts].

# %% tags=["picture"]
figure, axes = plt.subplots(1, 3, figsize=(8, 3.6), layout="constrained", sharey=True)
columns = {"router": router, "re-routed": result.weights, "the right expert": topic[40:, None]}
for plot, (title, weights) in zip(axes, columns.items(), strict=True):
    picture = plot.imshow(np.asarray(weights)[:, 0], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    plot.set_title(title, loc="left")
    plot.set_xticks(range(3), ["expert 0", "expert 1", "expert 2"])
axes[0].set(ylabel="sample", yticks=range(0, 20, 5))
figure.colorbar(picture, ax=axes, label="weight")
plt.show()

# %% [markdown]
# ## Are the answers better?
#
# The control asks whether similar references matter: it runs the same search on random ones.

# %%
losses = jax.vmap(answer_loss, in_axes=(None, 0, 0, 0))
control = reroute(answer_loss, params, bank, x[40:], router, topic[40:], strategy="random_neighbors", preset="simplex")
for name, weights in {"router": router, "re-routed": result.weights, "random neighbors": control.weights}.items():
    print(f"{name:17} mean squared error {losses(params, x[40:], weights, truth[40:]).mean():.3f}")

# %% [markdown]
# ## Your model
#
# Replace `answer_loss` by your own: any scalar of one sample in `jax.numpy`, with the routing weights [layers,
# experts] as an argument. The page *Re-route my own JAX model* continues from here: presets, `tune`, `diagnose`, the
# loss atlas, top-k gates, gates per token, and ports, which work with all commands.
