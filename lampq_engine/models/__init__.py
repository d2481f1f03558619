"""Models: loading any timm vision transformer, routing its matmuls through modules, surveying its layers."""

from lampq_engine.models.load import assets_dir, load_model, preprocessing, transform, weights_hash
from lampq_engine.models.matmul import MatMul, route_matmuls_
from lampq_engine.models.survey import bypassed, survey, unrouted

__all__ = [
    "MatMul",
    "assets_dir",
    "bypassed",
    "load_model",
    "preprocessing",
    "route_matmuls_",
    "survey",
    "transform",
    "unrouted",
    "weights_hash",
]
