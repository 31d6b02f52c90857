"""R2-T2: test-time re-routing of multimodal mixture-of-experts models (arXiv 2502.20395), in JAX.

The names below are the public ones. Each is imported when first used, so that `import r2t2_jax` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2t2_jax.bank import ReferenceBank as ReferenceBank
    from r2t2_jax.contract import LossModel as LossModel
    from r2t2_jax.contract import Query as Query
    from r2t2_jax.contract import References as References
    from r2t2_jax.contract import Rerouted as Rerouted
    from r2t2_jax.errors import R2T2Error as R2T2Error
    from r2t2_jax.evaluation.evidence import diagnose as diagnose
    from r2t2_jax.index import ExactIndex as ExactIndex
    from r2t2_jax.loading import load as load
    from r2t2_jax.neighbors import sample_keys as sample_keys
    from r2t2_jax.neighbors import select as select
    from r2t2_jax.own_model import reroute as reroute
    from r2t2_jax.presets import Preset as Preset
    from r2t2_jax.rerouting import reroute_batch as reroute_batch
    from r2t2_jax.routing import Routing as Routing
    from r2t2_jax.routing import RoutingSpec as RoutingSpec
    from r2t2_jax.routing import UpdateSpace as UpdateSpace
    from r2t2_jax.strategies import Strategy as Strategy
    from r2t2_jax.strategies import strategy as strategy

_HOMES = {
    "ExactIndex": "index",
    "LossModel": "contract",
    "Preset": "presets",
    "Query": "contract",
    "R2T2Error": "errors",
    "ReferenceBank": "bank",
    "References": "contract",
    "Rerouted": "contract",
    "Routing": "routing",
    "RoutingSpec": "routing",
    "Strategy": "strategies",
    "UpdateSpace": "routing",
    "diagnose": "evaluation.evidence",
    "load": "loading",
    "reroute": "own_model",
    "reroute_batch": "rerouting",
    "sample_keys": "neighbors",
    "select": "neighbors",
    "strategy": "strategies",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'r2t2_jax' has no attribute {name!r}")
    return getattr(import_module(f"r2t2_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
