"""What a model promises, and the data passed between a model and the method (docs/design.md, section 2).

`samples` is the input, `model` what every model has, `tokens` what token-level routers add, `port` a model ready to
use, `shapes` a model without weights, `batches` what the method reads and returns. Nothing here imports a port or a
strategy.
"""

from r2t2_jax.contract.batches import Query, References, Rerouted
from r2t2_jax.contract.model import (
    Answer,
    BeamModel,
    Features,
    Inputs,
    LogprobModel,
    LossModel,
    Params,
    RoutedLoss,
    RoutedModel,
    condition,
    default_vmap_size,
    support_of,
)
from r2t2_jax.contract.port import (
    CAPTION_PROMPTS,
    GRAY,
    METHODS,
    CaptionModel,
    Embedder,
    Port,
    Processor,
    check_methods,
)
from r2t2_jax.contract.samples import Sample, Turn, options_by_letter
from r2t2_jax.contract.shapes import FIRST_PASS, OUTER_PRODUCTS, Costs, CostVariant, ModelShapes
from r2t2_jax.contract.tokens import (
    TOKEN_KINDS,
    AlternativesModel,
    RecordingModel,
    ReplayModel,
    RouteLogprobs,
    SteerableModel,
    TokenProcessor,
    TokenRoutes,
    TokenSequence,
)

__all__ = [
    "CAPTION_PROMPTS",
    "FIRST_PASS",
    "GRAY",
    "METHODS",
    "OUTER_PRODUCTS",
    "TOKEN_KINDS",
    "AlternativesModel",
    "Answer",
    "BeamModel",
    "CaptionModel",
    "CostVariant",
    "Costs",
    "Embedder",
    "Features",
    "Inputs",
    "LogprobModel",
    "LossModel",
    "ModelShapes",
    "Params",
    "Port",
    "Processor",
    "Query",
    "RecordingModel",
    "References",
    "ReplayModel",
    "Rerouted",
    "RouteLogprobs",
    "RoutedLoss",
    "RoutedModel",
    "Sample",
    "SteerableModel",
    "TokenProcessor",
    "TokenRoutes",
    "TokenSequence",
    "Turn",
    "check_methods",
    "condition",
    "default_vmap_size",
    "options_by_letter",
    "support_of",
]
