"""Weights that torch's FSDP has spread over processes."""

import sys

import torch
from torch import nn


def check_sharding(engine: nn.Module, *, trains: bool) -> None:
    """Raise RuntimeError if no process has all weights of an engine, as in torch's FSDP and tensor parallelism.

    Such an engine can be trained, but with older releases of torch its trained weights come out wrong.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    if trains and torch.__version__ >= "2.13":  # torch.torch_version compares versions
        return
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    is_sharded = any(isinstance(module, kinds) for module in engine.modules())
    if not is_sharded and not any(hasattr(parameter, "device_mesh") for parameter in engine.parameters()):
        return
    if trains:
        raise RuntimeError(
            "the engine's weights are spread over processes, as by fully_shard, and with torch "
            f"{torch.__version__} training would make other weights of them than one process does, as was seen with "
            "2.11. Install torch 2.13 or newer, or train in DistributedDataParallel, which is right with older ones"
        )
    raise RuntimeError(
        "the engine's weights are spread over processes, as by fully_shard: it can be trained so, but adapting "
        "needs all of them in one process. Put them into an engine that is not sharded, by "
        "plain.load_state_dict(torch.distributed.checkpoint.state_dict.get_model_state_dict(engine, "
        "options=StateDictOptions(full_state_dict=True))), and call that one"
    )
