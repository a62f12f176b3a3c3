"""Weights that torch's FSDP has spread over processes."""

import sys

import torch
from torch import nn


def check_is_not_sharded(engine: nn.Module) -> None:
    """Raise RuntimeError if no process has all weights of an engine, as in torch's FSDP and tensor parallelism."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    is_sharded = any(isinstance(module, kinds) for module in engine.modules())
    if is_sharded or any(hasattr(parameter, "device_mesh") for parameter in engine.parameters()):
        raise RuntimeError(
            "the engine's weights are spread over processes, as by fully_shard: it can be trained so, but adapting "
            "needs all of them in one process. Put them into an engine that is not sharded, by "
            "plain.load_state_dict(torch.distributed.checkpoint.state_dict.get_model_state_dict(engine, "
            "options=StateDictOptions(full_state_dict=True))), and call that one"
        )
