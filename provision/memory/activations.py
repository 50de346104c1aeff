"""What forward keeps for backward, and what the loss takes. Pure; bytes on one GPU.

Counted operation by operation from transformers' model classes
(https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3/modeling_qwen3.py),
as https://arxiv.org/abs/2205.05198 does it for GPT: each tensor that autograd saves, once. Tests
hold every line to what torch's saved-tensor hooks see.
"""

from __future__ import annotations

from provision.memory.spec import MemorySpec, target_layers

FP32 = 4


def saved_bytes(spec: MemorySpec) -> int:
    """Everything that is kept when forward has ended, without the logits."""
    model, tokens = spec.model, spec.tokens
    if spec.checkpointing:
        layers = model.layers * tokens * model.hidden * residual_element(spec)
    else:
        layers = sum(layer_bytes(spec, number) for number in range(model.layers))
        layers -= _nothing_before(spec) * tokens
    last = _norm(spec, model.hidden) * tokens
    if not spec.adapted:
        last += tokens * model.hidden * spec.element  # the output layer's input
    # cos and sin of the rotary embedding, once for all layers; token ids and labels.
    return layers + last + tokens * (2 * model.head_dim * spec.element + 16)


def residual_element(spec: MemorySpec) -> int:
    """Bytes of a number of the residual stream: under autocast with fp32 weights, 4."""
    return FP32 if _autocast(spec) else spec.element


def _autocast(spec: MemorySpec) -> bool:
    """Without DeepSpeed, full training keeps fp32 weights and casts as it computes."""
    return spec.zero == 0 and not spec.adapted and spec.precision != "fp32"


def layer_bytes(spec: MemorySpec, number: int) -> int:
    """What one decoder layer keeps."""
    model, e = spec.model, spec.element
    kept = model.family.norms * _norm(spec, model.hidden)
    kept += _attention(spec)
    if number in model.sparse:
        kept += _experts(spec)
    else:
        # silu's input and output, the other factor, and their product for down_proj.
        kept += 4 * e * model.intermediate
    if spec.adapted:
        kept += _adapters(spec, number)
    else:
        # What q, k and v share, and what gate and up share: the output of the norm before. Under
        # autocast each of the layers makes its own copy.
        copies = 5 if _autocast(spec) else 2
        kept += copies * e * model.hidden
    return kept * spec.tokens


def _norm(spec: MemorySpec, width: int, groups: int = 1) -> int:
    """RMSNorm: its input in fp32, the inverse root, and (for the weight's gradient) its output."""
    kept = FP32 * width + FP32 * groups
    if spec.adapted:
        return kept
    if spec.model.family.fp32_norm:
        return kept + FP32 * width
    return kept + (FP32 if _autocast(spec) and groups == 1 else spec.element) * width


def _attention(spec: MemorySpec) -> int:
    model, e = spec.model, spec.element
    query, key = model.query, model.key
    kept = 0
    if model.family.qk_norm:
        kept += _norm(spec, query, model.heads) + _norm(spec, key, model.kv_heads)
    if spec.attention == "eager":
        # Keys and values repeated for every query head; scores after softmax in fp32 and again in
        # half precision; a soft cap keeps its tanh.
        kept += e * (query + 2 * query) + (FP32 + e) * model.heads * spec.seq
        kept += e * model.heads * spec.seq if model.family.softcap else 0
        return kept + e * query  # the output, for o_proj
    # Fused: query, key, value, output, and one fp32 a head (the log of the softmax's sum).
    return kept + e * (2 * query + 2 * key) + FP32 * model.heads


def _experts(spec: MemorySpec) -> int:
    """Per expert that a token goes to: input, gate and up, silu, product, output; the router."""
    model, e = spec.model, spec.element
    each = e * (2 * model.hidden + 4 * model.expert_width) + 8 * 3
    return model.experts_per_token * each + FP32 * model.experts


def _adapters(spec: MemorySpec, number: int) -> int:
    """LoRA: the input after dropout and the mask, of its own for each layer; then rank numbers."""
    e, prefix = spec.element, f"layers.{number}."
    layers = [layer for layer in target_layers(spec) if layer.name.startswith(prefix)]
    kept = len(layers) * spec.lora_rank * e
    if spec.lora_dropout == 0:
        # The input itself: shared by q, k and v, by gate and up; the other two are kept anyway.
        shared = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "gate_proj": 1, "up_proj": 1}
        return kept + e * spec.model.hidden * len({shared.get(x.leaf, -1) for x in layers} - {-1})
    for layer in layers:
        kept += (e + _mask(spec)) * layer.shape[1]
        if layer.leaf == "down_proj":
            kept -= e * layer.shape[1]  # what it was made from is not needed any more
    return kept


def _mask(spec: MemorySpec) -> int:
    """CUDA's dropout keeps a mask of bools, the CPU's one of the input's own type: fp32 where the
    adapter is (without DeepSpeed).
    """
    if spec.lora_dropout == 0:
        return 0
    return 1 if spec.accelerator == "cuda" else FP32 if spec.zero == 0 else spec.element


def _nothing_before(spec: MemorySpec) -> int:
    """What the first layer need not keep: nothing before a frozen embedding wants a gradient."""
    if not spec.adapted:
        return 0
    first = [w.leaf for w in target_layers(spec) if w.name.startswith("layers.0.self_attn.")]
    inputs = len({"q_proj", "k_proj", "v_proj"} & set(first))
    return _norm(spec, spec.model.hidden) + inputs * _mask(spec) * spec.model.hidden


def backward_bytes(spec: MemorySpec) -> int:
    """What backward of one layer takes beyond what was kept: gradients on their way, and with
    checkpointing the layer that was computed again.
    """
    model = spec.model
    width = max(model.intermediate, model.expert_width * model.experts_per_token)
    moving = spec.tokens * spec.element * (3 * width + 2 * model.hidden)
    if spec.attention == "eager":
        moving = max(moving, 2 * FP32 * model.heads * spec.seq * spec.tokens)
    if not spec.checkpointing:
        return moving
    return moving + max(layer_bytes(spec, number) for number in {0, *list(model.sparse)[:1]})


def logits_bytes(spec: MemorySpec) -> int:
    """The loss at its highest: log-softmax kept in fp32, its gradient, and that of its input.

    ForCausalLMLoss casts the logits to fp32 first, so what is 2 bytes a logit becomes 12
    (https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/loss/loss_utils.py).
    ORPO's casts one row after the other (trainer/orpo.py): the logits, their log-softmax in fp32,
    and one row's fp32 copy.
    """
    each, more = 3 * FP32, 0
    if spec.objective == "orpo":
        each = spec.element + FP32
        more = FP32 * spec.seq if spec.element < FP32 else 0
    if spec.model.family.softcap:
        each += spec.element
    return (spec.tokens * each + more) * spec.model.vocabulary
