"""R2-T2: test-time re-routing of multimodal mixture-of-experts models (arXiv 2502.20395), in JAX.

Public names are imported when first used, so `import r2t2_jax` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__: str

if TYPE_CHECKING:
    from r2t2_jax.analysis.diagnose import diagnose as diagnose
    from r2t2_jax.analysis.tune import TunedPreset as TunedPreset
    from r2t2_jax.analysis.tune import tune as tune
    from r2t2_jax.bank import ReferenceBank as ReferenceBank
    from r2t2_jax.contract import LossModel as LossModel
    from r2t2_jax.contract import Query as Query
    from r2t2_jax.contract import References as References
    from r2t2_jax.contract import Rerouted as Rerouted
    from r2t2_jax.errors import R2T2Error as R2T2Error
    from r2t2_jax.functional import build_atlas as build_atlas
    from r2t2_jax.functional import reroute as reroute
    from r2t2_jax.inference import answer as answer
    from r2t2_jax.method.presets import Preset as Preset
    from r2t2_jax.method.rerouting import reroute_batch as reroute_batch
    from r2t2_jax.method.strategies import Strategy as Strategy
    from r2t2_jax.methods import strategy as strategy
    from r2t2_jax.plugins import load as load
    from r2t2_jax.retrieval import ExactIndex as ExactIndex
    from r2t2_jax.retrieval.neighbors import sample_keys as sample_keys
    from r2t2_jax.retrieval.neighbors import select as select
    from r2t2_jax.routing import Routing as Routing
    from r2t2_jax.routing import RoutingSpec as RoutingSpec
    from r2t2_jax.routing import UpdateSpace as UpdateSpace

_MODULES = {
    "ExactIndex": "retrieval",
    "LossModel": "contract",
    "Preset": "method.presets",
    "Query": "contract",
    "R2T2Error": "errors",
    "ReferenceBank": "bank",
    "References": "contract",
    "Rerouted": "contract",
    "Routing": "routing",
    "RoutingSpec": "routing",
    "Strategy": "method.strategies",
    "TunedPreset": "analysis.tune",
    "UpdateSpace": "routing",
    "answer": "inference",
    "build_atlas": "functional",
    "diagnose": "analysis.diagnose",
    "load": "plugins",
    "reroute": "functional",
    "reroute_batch": "method.rerouting",
    "sample_keys": "retrieval.neighbors",
    "select": "retrieval.neighbors",
    "strategy": "methods",
    "tune": "analysis.tune",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    if name == "__version__":
        from importlib import metadata  # imports the standard library's email package, which takes time

        return metadata.version("r2t2-jax")
    if name not in _MODULES:
        raise AttributeError(f"module 'r2t2_jax' has no attribute {name!r}")
    return getattr(import_module(f"r2t2_jax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
