"""spec.py, state.py, activations.py, estimate.py: the seeds' tables, refusals, and monotony.

What real engines allocate is in tests/trainer/test_memory.py; here is what needs no torch.
"""

from __future__ import annotations

from typing import Any

import pytest

from provision.errors import ConfigError
from provision.memory.activations import layer_bytes, saved_bytes
from provision.memory.estimate import PARTS, estimate
from provision.memory.model import Model, parse_model
from provision.memory.read import read_model
from provision.memory.spec import MemorySpec, check_spec, spec_from_flags, target_layers
from provision.memory.state import plan_state, whole_partition

#: A model of exactly 32e9 parameters: the tables' round figure (one big embedding will do).
ROUND = parse_model(
    {
        "model_type": "llama", "vocab_size": 31_999_996, "hidden_size": 1000,
        "intermediate_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1,
        "head_dim": 1, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "32e9", "32e9",
)  # fmt: skip


def model(**changes: Any) -> Model:
    config = {
        "model_type": "qwen3", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, **changes,
    }  # fmt: skip
    return parse_model(config, "tiny", "tiny")


def spec(**changes: Any) -> MemorySpec:
    return check_spec(MemorySpec(**{"model": model(), "gpus": 2, "accum": 1, **changes}))


#: (zero, offload) → the guides' GB a GPU for 32 billion parameters on 8 GPUs, and ours: weights,
#: gradients while they are made, fp32 master copies and both moments. docs/memory.md says why.
TABLE = {
    (0, "none"): (256, 640),
    (1, "none"): (144, 176),
    (2, "none"): (88, 120),
    (2, "optimizer"): (72, 64),
    (3, "none"): (32, 64),
    (3, "optimizer"): (24, 8),
}


@pytest.mark.parametrize(("zero", "offload"), TABLE)
def test_the_guides_tables(zero: int, offload: str) -> None:
    assert abs(ROUND.parameters - 32e9) < 1e4
    # ZeRO-1 keeps whole gradients while it accumulates; ZeRO-2 only its part.
    asked = MemorySpec(
        model=ROUND, method="full", zero=zero, offload=offload, gpus=8, accum=2 if zero < 2 else 1
    )
    state = plan_state(asked)
    # One tensor that all ranks share would be held whole by each: count parts instead.
    part = 0 if offload != "none" else 2 * ROUND.parameters // 8
    gradients = part if zero >= 2 else state.carried
    total = state.parameters + gradients + state.optimizer + (state.fixed if zero == 0 else 0)
    theirs, ours = TABLE[zero, offload]
    assert total / 1e9 == pytest.approx(ours, rel=0.001)
    assert theirs != ours


def test_total_is_the_sum_of_its_parts() -> None:
    for moment in estimate(spec()).moments:
        assert moment.total == sum(getattr(moment, part) for part in PARTS)
    answer = estimate(spec()).as_json()
    assert set(PARTS) | {"total", "moment"} == set(answer["per_gpu"])  # type: ignore[call-overload]


def test_a_higher_stage_never_needs_more_states() -> None:
    big = read_model("qwen3-8b")
    totals = []
    for zero in (0, 1, 2, 3):
        state = plan_state(MemorySpec(model=big, method="full", zero=zero, gpus=8, accum=1))
        totals.append(state.parameters + state.optimizer + state.whole)
    assert totals == sorted(totals, reverse=True)


def test_offload_moves_18_bytes_for_each_number_of_a_part() -> None:
    big = read_model("qwen3-8b")
    near = plan_state(MemorySpec(model=big, method="full", zero=3, gpus=8))
    away = plan_state(MemorySpec(model=big, method="full", zero=3, offload="all", gpus=8))
    assert (away.parameters, away.optimizer, away.whole) == (0, 0, 0)
    # fp32 master, two moments, fp32 gradient, half precision gradient and weight: 12 + 6 + 2
    assert away.host - away.host_pinning == pytest.approx(20 * big.parameters / 8, rel=1e-5)
    assert near.host == 0


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_lora_trains_only_its_adapter(zero: int) -> None:
    lora = plan_state(spec(method="lora", zero=zero))
    full = plan_state(spec(method="full", zero=zero))
    # rank x layers x (in + out) of q, k, v, o, gate, up, down
    trained = 8 * 4 * (512 + 384 + 384 + 512 + 1024 + 1024 + 1024)
    assert lora.optimizer == 12 * trained // 2
    assert lora.optimizer < full.optimizer / 10


def test_checkpointing_keeps_one_tensor_a_layer() -> None:
    kept, all_ = (
        saved_bytes(spec(method="full")),
        saved_bytes(spec(method="full", checkpointing=False)),
    )
    layers = sum(layer_bytes(spec(method="full"), number) for number in range(4))
    assert all_ - kept == layers - 4 * 2048 * 256 * 2


def test_activations_grow_with_tokens_and_orpo_doubles_them() -> None:
    assert saved_bytes(spec(batch=2)) == 2 * saved_bytes(spec()) == saved_bytes(
        spec(objective="orpo")
    )  # fmt: skip
    eager = [saved_bytes(spec(attention="eager", checkpointing=False, seq=n)) for n in (512, 1024)]
    assert eager[1] > 2 * eager[0]  # scores grow with the square


def test_gradients_on_a_boundary_are_held_whole_by_both() -> None:
    assert whole_partition([4, 4], 2) == 4
    assert whole_partition([2, 4, 2], 2) == 6
    assert whole_partition([8], 4) == 8


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seq": 5000}, "at most 4096"),
        ({"zero": 4}, "--zero"),
        ({"method": "dora"}, "--method"),
        ({"offload": "all", "zero": 2}, "needs --zero 3"),
        ({"offload": "optimizer", "zero": 0}, "needs --zero 1, 2 or 3"),
        ({"method": "qlora", "zero": 3}, "use --zero 2"),
        ({"gpus": 0}, "--gpus"),
        ({"gpus": 1_000_000, "nodes": 8}, "8,000,000 ranks"),
        ({"lora_targets": "query"}, "q_proj"),
        ({"batch": -1}, "--batch"),
        ({"accelerator": "tpu"}, "cuda, cpu"),
    ],
)
def test_what_cannot_be_is_one_line(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError) as error:
        spec(**{"method": "lora", **changes})
    assert what in str(error.value)
    assert "\n" not in str(error.value)


def test_lora_targets_are_every_linear_layer_but_the_output() -> None:
    untied = spec(model=model(tie_word_embeddings=False))
    assert len(target_layers(untied)) == 4 * 7
    assert len(target_layers(spec(lora_targets="q_proj,v_proj"))) == 4 * 2


def test_a_recipe_decides_what_flags_do_not() -> None:
    recipe = {
        "use_peft": False, "model_max_length": 512, "gradient_accumulation_steps": 4,
        "per_device_train_batch_size": 2, "activation_checkpointing": False, "bf16": False,
    }  # fmt: skip
    config = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}
    found = spec_from_flags(spec(), recipe, config)
    assert (found.method, found.seq, found.accum, found.batch) == ("full", 512, 4, 2)
    assert (found.checkpointing, found.precision, found.reduce_bucket) == (False, "fp32", 1000)
    methods = [spec_from_flags(spec(), {"quantize": q}).method for q in ("4bit", "8bit", None)]
    assert methods == ["qlora", "lora", "lora"]
    assert spec_from_flags(spec(), {"objective": "orpo"}, config).objective == "orpo"
    with pytest.raises(ConfigError, match="model_max_length"):
        spec_from_flags(spec(), {"model_max_length": "long"})


def test_pinned_memory_is_rounded_up_on_gpus_only() -> None:
    asked = {"method": "full", "zero": 2, "offload": "optimizer"}
    assert plan_state(spec(**asked)).host_pinning > 0
    assert plan_state(spec(**asked, accelerator="cpu")).host_pinning == 0


def test_nothing_reserved_and_all_in_host_memory_on_the_cpu() -> None:
    found = estimate(spec(accelerator="cpu"))
    assert found.peak.reserve == 0
    assert found.host_total > 2 * found.peak.tensors
