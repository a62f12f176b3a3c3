"""Checkpoints that torch-ttt's engine wrote, and those of this one from before its embedder had that name."""

from typing import Any


def rename_torch_ttt_keys(state_dict: dict[str, Any], prefix: str, is_default_embedder: bool) -> None:
    """Bring a checkpoint of torch-ttt's engine, which holds the layer twice, into ours."""
    for key in list(state_dict):
        if key.startswith(f"{prefix}target_module."):
            del state_dict[key]
        elif key.startswith(f"{prefix}embeder."):
            state_dict[f"{prefix}embedder.{key.removeprefix(f'{prefix}embeder.')}"] = state_dict.pop(key)
    if not is_default_embedder:
        return
    for theirs, ours in (("0.weight", "weight1"), ("0.bias", "bias1"), ("2.weight", "weight2"), ("2.bias", "bias2")):
        value = state_dict.pop(f"{prefix}embedder.{theirs}", None)
        if value is not None:
            # Theirs is a 1x1 convolution for images.
            state_dict[f"{prefix}embedder.{ours}"] = value.flatten(1) if theirs.endswith("weight") else value
