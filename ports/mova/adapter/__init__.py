"""The MoV-Adapter: mixes the experts' features into CLIP's under the routing weights."""
