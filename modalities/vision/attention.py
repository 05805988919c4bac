"""Attention as two plain linear layers: what adapts linear layers, in training or per request, adapts it too.

`nn.MultiheadAttention` multiplies with its weights behind the back of its own submodules, so that an adapter put on
them has no effect.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def split_attention(attention: nn.MultiheadAttention) -> "SplitAttention":
    """The same attention, with the same parameters."""
    return SplitAttention(attention)


class SplitAttention(nn.Module):
    """Self-attention that is called like `nn.MultiheadAttention` with `batch_first`, and holds its parameters."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        assert attention.batch_first and attention.in_proj_weight is not None
        self.heads = attention.num_heads
        width = attention.embed_dim
        self.qkv = nn.Linear(width, 3 * width, bias=attention.in_proj_bias is not None, device="meta")
        self.qkv.weight = attention.in_proj_weight
        if attention.in_proj_bias is not None:
            self.qkv.bias = attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Any:
        """`[batch, tokens, width]` to the same, and None for the weights, which nobody asks for."""
        assert key is query and value is query
        batch, tokens, width = query.shape
        parts = self.qkv(query).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        if attn_mask is not None and attn_mask.ndim == 3:  # one for each row and head
            attn_mask = attn_mask.view(batch, self.heads, tokens, tokens)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, width)), None
