"""The Qwen3.5-MoE port: converted weights as a `Port`, shapes, and conversion."""

from ports.common.qwen_vl.port import VLFamily
from ports.qwen3_5_moe.config import Qwen35MoEConfig, full_35b_a3b, tiny
from ports.qwen3_5_moe.params import converter

__all__ = ["converter", "load", "shapes"]

RULES = (  # of the decoder: whole paths, and which axis of the leaf is sharded, counted from the end
    (r"decoder/layers/experts/(gate_up|down)", -3),  # the experts
    (r"decoder/layers/shared_expert/(gate_proj|up_proj)/kernel", -1),
    (r"decoder/layers/shared_expert/down_proj/kernel", -2),
    (r"decoder/self_attn/(q_proj|k_proj|v_proj)/kernel", -1),
    (r"decoder/linear_attn/(in_proj_qkv|in_proj_z)/kernel", -1),
    (r"decoder/(self_attn/o_proj|linear_attn/out_proj)/kernel", -2),
    (r"decoder/(lm_head/kernel|embed_tokens)", -1),
)
FAMILY = VLFamily("qwen3_5_moe", Qwen35MoEConfig, {"35b-a3b": full_35b_a3b, "tiny": tiny}, RULES)
load, shapes = FAMILY.load, FAMILY.shapes
