"""The ops a wheel can hold: our name for each ↔ DeepSpeed's flag, module and builder classes.

Source: ``op_builder/`` of the release (``BUILD_VAR``, ``NAME``, ``absolute_name``); the names
that DeepSpeed writes into the wheel differ from ours only for ``shm_comm``. An op that DeepSpeed
does not know under an accelerator is *silently ignored* by its setup.py, so this table is what
makes asking for one an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from provision.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Op:
    """One op.

    Attributes:
        name: what users write in ``--ops``.
        flag: the environment variable that asks DeepSpeed's setup.py for it.
        installed_name: its key in ``installed_ops`` of ``git_version_info_installed.py``.
        module: the extension module the wheel must hold.
        builders: accelerator → builder class in ``op_builder``.
        needs: ops that setup.py adds by itself when this one is asked for.
        header: a header that its sources include and no Python package brings.
        ldflags: linker flags of this op alone that DeepSpeed's own builder drops.
        toolkit_part: a file of CUDA_HOME that only this op is linked with, under cuda.
        blocked: why no wheel of this version can hold it; "" for all others.
        tried: whether it was ever built with this version; others are built when they are named.
        guarded: functions that may use instructions above the wheel's CPU level because the op
            asks the CPU at run time before it calls them.
    """

    name: str
    flag: str
    installed_name: str
    module: str
    builders: Mapping[str, str]
    needs: tuple[str, ...] = ()
    header: str = ""
    ldflags: tuple[str, ...] = ()
    guarded: tuple[str, ...] = field(default=())
    toolkit_part: str = ""
    blocked: str = ""
    tried: bool = True

    @property
    def module_path(self) -> str:
        """Where the module lies in the wheel, without the interpreter's suffix."""
        return self.module.replace(".", "/")


def _op(name: str, flag: str, package: str, builders: Mapping[str, str], **more: object) -> Op:
    installed = str(more.pop("installed_name", name))
    module = str(more.pop("module", f"deepspeed.ops.{package}{installed}_op"))
    return Op(
        name=name,
        flag=flag,
        installed_name=installed,
        module=module,
        builders=MappingProxyType(dict(builders)),
        **more,  # type: ignore[arg-type]  # the keyword arguments of the rows below
    )


def _both(builder: str) -> dict[str, str]:
    return {"cpu": builder, "cuda": builder}


def _cuda(name: str, flag: str, package: str, builder: str, **more: object) -> Op:
    return _op(name, f"DS_BUILD_{flag}", package, {"cuda": builder}, **more)


_DSKERNELS = (
    "it links against the package deepspeed-kernels, and setup.py crashes without it (No module "
    "named 'dskernels')"
)

_ROWS = (
    _op("cpu_adam", "DS_BUILD_CPU_ADAM", "adam.", _both("CPUAdamBuilder")),
    _op("cpu_adagrad", "DS_BUILD_CPU_ADAGRAD", "adagrad.", _both("CPUAdagradBuilder")),
    _op("cpu_lion", "DS_BUILD_CPU_LION", "lion.", _both("CPULionBuilder")),
    _op("fused_adam", "DS_BUILD_FUSED_ADAM", "adam.", _both("FusedAdamBuilder")),
    _op(
        "shm_comm",
        "DS_BUILD_SHM_COMM",
        "comm.",
        {"cpu": "ShareMemCommBuilder"},
        installed_name="deepspeed_shm_comm",
        # csrc/cpu/comm/shm_interface.cpp: vector_kernel_level() asks the CPU for avx512bw, and
        # deepspeed/comm/torch.py calls these two only on a "yes".
        guarded=("reduce_bf16_buffers", "reduce_fp16_buffers"),
    ),
    _op("pin_memory", "DS_BUILD_PIN_MEMORY", "pin_memory.", _both("PinMemoryBuilder")),
    _op(
        "async_io",
        "DS_BUILD_AIO",
        "aio.",
        _both("AsyncIOBuilder"),
        needs=("pin_memory",),
        header="libaio.h",
        # The CPU builder drops extra_ldflags(), and the op then fails when it is imported
        # ("undefined symbol: io_submit") though ds_report calls it fine. For this op's module
        # only: in LDFLAGS it would make every op need libaio on every host.
        ldflags=("-laio",),
        # Under cuda its builder adds -lcuda: the driver's library, or the toolkit's stub of it.
        toolkit_part="lib64/libcuda.so",
    ),
    _cuda("fused_lamb", "FUSED_LAMB", "lamb.", "FusedLambBuilder"),
    _cuda("fused_lion", "FUSED_LION", "lion.", "FusedLionBuilder", tried=False),
    _cuda("utils", "UTILS", "", "UtilsBuilder"),
    _cuda("random_ltd", "RANDOM_LTD", "", "RandomLTDBuilder", tried=False),
    _cuda("quantizer", "QUANTIZER", "quantizer.", "QuantizerBuilder", tried=False),
    _cuda("fp_quantizer", "FP_QUANTIZER", "fp_quantizer.", "FPQuantizerBuilder", tried=False),
    _cuda(
        "spatial_inference", "SPATIAL_INFERENCE", "spatial.", "SpatialInferenceBuilder", tried=False
    ),
    _cuda("transformer", "TRANSFORMER", "transformer.", "TransformerBuilder", tried=False),
    _cuda(
        "stochastic_transformer",
        "STOCHASTIC_TRANSFORMER",
        "transformer.",
        "StochasticTransformerBuilder",
        tried=False,
    ),
    _cuda(
        "transformer_inference",
        "TRANSFORMER_INFERENCE",
        "transformer.inference.",
        "InferenceBuilder",
        tried=False,
    ),
    _cuda("dc", "DEEP_COMPILE", "", "DeepCompileBuilder"),
    _cuda(
        "ragged_ops",
        "RAGGED_OPS",
        "",
        "RaggedUtilsBuilder",
        module="deepspeed.inference.v2.ragged_ops",
    ),
    _cuda(
        "inference_core_ops",
        "INFERENCE_CORE_OPS",
        "",
        "InferenceCoreBuilder",
        # absolute_name() of its builder lacks a dot; DeepSpeed finds the module by that very name.
        module="deepspeed.inference.v2.kernelsinference_core_ops",
        tried=False,
    ),
    _cuda(
        "gds",
        "GDS",
        "gds.",
        "GDSBuilder",
        needs=("pin_memory",),
        header="libaio.h",
        toolkit_part="lib64/libcuda.so",
        tried=False,
    ),
    _cuda(
        "cutlass_ops",
        "CUTLASS_OPS",
        "",
        "InferenceCutlassBuilder",
        module="deepspeed.inference.v2.kernels.cutlass_ops.cutlass_ops",
        blocked=_DSKERNELS,
    ),
    _cuda(
        "ragged_device_ops",
        "RAGGED_DEVICE_OPS",
        "",
        "RaggedOpsBuilder",
        module="deepspeed.inference.v2.kernels.ragged_ops.ragged_device_ops",
        blocked=_DSKERNELS,
    ),
    _cuda(
        "evoformer_attn",
        "EVOFORMER_ATTN",
        "",
        "EvoformerAttnBuilder",
        blocked="it needs a CUTLASS source tree, and DeepSpeed drops it silently without one",
    ),
)

#: Every op we know, by our name.
OPS: Mapping[str, Op] = MappingProxyType({op.name: op for op in _ROWS})

#: What is built when ``--ops`` is not given. Every ZeRO run on CPU loads shm_comm at its start
#: (deepspeed/comm/torch.py), so leaving it out moves a one-minute compile onto every host. On
#: GPUs: the optimizers of runs with and without offload, and the tensor casts of FP16.
DEFAULT_OPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"cpu": ("cpu_adam", "shm_comm"), "cuda": ("cpu_adam", "fused_adam", "utils")}
)
#: What ``--ops`` calls every op that can be built.
ALL = "all"


def ops_of(accelerator: str) -> tuple[str, ...]:
    """The names of the ops that exist under an accelerator, sorted."""
    return tuple(sorted(op.name for op in OPS.values() if accelerator in op.builders))


def buildable(accelerator: str) -> tuple[str, ...]:
    """Those that ``all`` means: seen to build with this version; sorted."""
    names = ops_of(accelerator)
    return tuple(name for name in names if OPS[name].tried and not OPS[name].blocked)


def find_ops(names: Iterable[str], accelerator: str) -> tuple[Op, ...]:
    """The named ops and the ones they need, sorted by name.

    Raises:
        ConfigError: a name is unknown (the closest one is offered), or that op does not exist
            under the accelerator.
    """
    found: dict[str, Op] = {}
    for name in names:
        op = _find_op(name, accelerator)
        for one in (op, *(OPS[needed] for needed in op.needs)):
            found[one.name] = one
    return tuple(found[name] for name in sorted(found))


def _find_op(name: str, accelerator: str) -> Op:
    offered = (*ops_of(accelerator), ALL)
    op = OPS.get(name)
    if op is None:
        close = difflib.get_close_matches(name, offered, n=1)
        raise ConfigError(
            "--ops",
            found=f"unknown op {name!r}",
            expected=f"ops of the {accelerator} accelerator: {', '.join(offered)}",
            remedy=f"did you mean {close[0]}?" if close else "name ops from that list",
        )
    if accelerator not in op.builders:
        raise ConfigError(
            "--ops",
            found=f"{name}, which DeepSpeed has for {' and '.join(sorted(op.builders))} only",
            expected=f"ops of the {accelerator} accelerator: {', '.join(offered)}",
            remedy=f"leave {name} out",
        )
    if op.blocked:
        raise ConfigError(
            "--ops",
            found=f"{name}, which can't be built here: {op.blocked}",
            expected=f"ops of the {accelerator} accelerator: {', '.join(buildable(accelerator))}",
            remedy=f"leave {name} out",
        )
    return op
