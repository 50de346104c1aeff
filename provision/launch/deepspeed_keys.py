"""The keys that a DeepSpeed configuration may have, by section, as DeepSpeed 0.19.8 reads them.

DeepSpeed refuses unknown keys inside ``zero_optimization``, ``fp16`` and ``bf16`` only, after every
rank has loaded the model; an unknown key elsewhere it drops without a word. Recorded from
https://github.com/deepspeedai/DeepSpeed/tree/v0.19.8/deepspeed/runtime: config.py (what
DeepSpeedConfig reads of the file), zero/config.py, zero/offload_config.py, precision_config.py.
tests/trainer/test_deepspeed_keys.py holds them against the DeepSpeed that is installed.
"""

from __future__ import annotations

#: Whose keys they are.
VERSION = "0.19.8"
#: Section ("" is the file itself) → its keys.
KEYS: dict[str, frozenset[str]] = {
    section: frozenset(names.split())
    for section, names in {
        "": """
activation_checkpointing aio autotuning bf16 bfloat16 checkpoint comet comms_logger
communication_data_type compile csv_monitor data_efficiency data_types dataloader_drop_last
datastates_ckpt disable_allgather disable_python_gc dump_state expert_parallel
flops_profiler fp16 gradient_accumulation_steps gradient_allreduce_op gradient_clipping
gradient_predivide_factor hybrid_engine log_level managed_gradient_accumulation
memory_breakdown optimizer pipeline prescale_gradients scheduler
seq_parallel_communication_data_type steps_per_print tensor_parallel tensorboard timers
torch_autocast train_batch_size train_micro_batch_size_per_gpu
use_data_before_expert_parallelism wall_clock_breakdown wandb weight_quantization
zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization
""",
        "zero_optimization": """
allgather_bucket_size allgather_partitions allgather_sequential compute_grad_norm
contiguous_gradients cpu_offload cpu_offload_param cpu_offload_use_pin_memory
elastic_checkpoint enable_sanity_checks gather_16bit_weights_on_model_save
ignore_unused_parameters leaf_module legacy_stage1 load_from_fp32_weights
log_trace_cache_warnings max_live_parameters max_reuse_distance memory_efficient_linear
model_persistence_threshold module_granularity_threshold offload_optimizer offload_param
overlap_comm override_module_apply param_persistence_threshold parameter_alignment
pipeline_loading_checkpoint prefetch_bucket_size reduce_bucket_size reduce_scatter
round_robin_gradients save_muon_momentum_buffer_in_memory stage stage3_allgather_sequential
stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save
stage3_max_live_parameters stage3_max_reuse_distance stage3_model_persistence_threshold
stage3_module_granularity_threshold stage3_param_persistence_threshold
stage3_prefetch_bucket_size stage3_use_all_reduce_for_fetch_params sub_group_size
use_all_reduce_for_fetch_params use_multi_rank_bucket_allreduce zenflow
zero_hpz_partition_size zero_quantized_gradients zero_quantized_nontrainable_weights
zero_quantized_weights
""",
        "zero_optimization.offload_param": """
buffer_count buffer_size device max_in_cpu nvme_path pin_memory
""",
        "zero_optimization.offload_optimizer": """
buffer_count cpuadam_cores_perc device fast_init nvme_path pin_memory pipeline_read pipeline_write
ratio super_offload
""",
        "fp16": """
auto_cast consecutive_hysteresis enabled fp16_master_weights_and_grads hysteresis
initial_scale_power loss_scale loss_scale_window min_loss_scale
""",
        "bf16": """
bf16_master_weights_and_grads bf16_optimizer_states check_grad_overflow enabled
immediate_grad_update
""",
        "optimizer": "type params legacy_fusion",
        "scheduler": "type params",
        "checkpoint": """
tag_validation load_universal use_node_local_storage parallel_write writer
""",
        "aio": """
block_size queue_depth intra_op_parallelism single_submit overlap_events use_gds
""",
        "activation_checkpointing": """
partition_activations number_checkpoints contiguous_memory_optimization
synchronize_checkpoint_boundary profile cpu_checkpointing
""",
    }.items()
}
