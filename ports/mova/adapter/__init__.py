"""The MoV-Adapter: how the experts' features are mixed into CLIP's under routing weights."""
