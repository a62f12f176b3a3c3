"""What a comparison is called in tables and pictures."""


def layer_in_words(layer: str) -> str:
    """Name a layer; a number alone, which a Sequential's children have, says too little."""
    return f"first linear layer (`{layer}`)" if layer == "0" else f"`{layer}`"


def title_of(network: str, batch: int, layer: str, *, each_by_itself: bool) -> str:
    """Name a comparison by its network, the batch and the layer."""
    return f"{network}, batch {batch}{', each by itself' * each_by_itself}, {layer_in_words(layer)}"
