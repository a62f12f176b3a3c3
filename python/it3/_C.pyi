"""
The C++ core of it3.
"""
from __future__ import annotations
import collections.abc
import torch
import typing
__all__: list[str] = ['Adaptation', 'Drift', 'EngineParts', 'LayerKind', 'Layout', 'ModelHold', 'Online', 'OptionInfo', 'Origin', 'Runners', 'Watch', 'adapt', 'arguments_of', 'batch_norm', 'broadcast_add', 'channel_dim_of_kind', 'check_distance', 'check_feedback', 'check_in_dims', 'check_injection', 'check_output_choice', 'chosen_output', 'copies_with_shared_memory', 'describe_layouts', 'embed', 'is_between_distributions', 'is_elementwise', 'kind_of_layer', 'load_engine', 'make_embedder_weights', 'option_infos', 'options_of', 'overridden', 'peak_memory', 'quantile_of', 'replace_at', 'sample_distances', 'save_engine', 'settle_layouts', 'submodule_of', 'training_losses', 'uncertainty', 'untrained_warning', 'use_plain_backward', 'why_not_recorded']
class Layout:
    """
    Which dimensions of a tensor are its samples and its channels.
    """
    def __getstate__(self) -> tuple[int | None, int]:
        ...
    def __init__(self, channel_dim: typing.SupportsInt | typing.SupportsIndex | None = None, batch_dim: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, arg0: tuple) -> None:
        ...
    def batch_of(self, rank: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        The batch dimension of a tensor of so many dimensions.
        """
    def channel_of(self, rank: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        The channel dimension of a tensor of so many dimensions, counted from 0.
        """
    @property
    def batch_dim(self) -> int:
        ...
    @property
    def channel_dim(self) -> int | None:
        ...
class LayerKind:
    """
    What the kind of a layer of torch.nn tells of its output.
    """
    @property
    def batch_first(self) -> bool | None:
        ...
    @property
    def channel_dim(self) -> int | None:
        ...
    @channel_dim.setter
    def channel_dim(self, arg0: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def channels(self) -> int | None:
        ...
    @property
    def takes_sequences(self) -> bool:
        ...
class Origin:
    """
    The layers that a tensor comes from.
    """
    def __init__(self, inside: collections.abc.Sequence[LayerKind], before: collections.abc.Sequence[LayerKind], is_direct: bool) -> None:
        ...
    @property
    def before(self) -> list[LayerKind]:
        ...
    @property
    def inside(self) -> list[LayerKind]:
        ...
    @property
    def is_direct(self) -> bool:
        ...
class Watch:
    """
    What code has read of Python; see it3.reads.
    """
    def __init__(self, facts: list) -> None:
        ...
    def __len__(self) -> int:
        ...
    def has_changed(self) -> bool:
        """
        Whether anything is not as it was.
        """
class Adaptation:
    """
    What adaptation came to. Every tensor is detached.
    """
    def loss(self) -> torch.Tensor:
        ...
    @property
    def adapted_samples(self) -> torch.Tensor | None:
        ...
    @property
    def first(self) -> torch.Tensor:
        ...
    @property
    def losses(self) -> torch.Tensor:
        ...
    @property
    def prediction(self) -> torch.Tensor:
        ...
    @property
    def recovered(self) -> bool:
        ...
    @property
    def second(self) -> torch.Tensor:
        ...
    @property
    def weights(self) -> list[tuple[str, torch.Tensor]]:
        ...
class Drift:
    """
    How far weights have moved from their start: Euclidean norms.
    """
    def __repr__(self) -> str:
        ...
    @property
    def by_parameter(self) -> list[tuple[str, float]]:
        """
        Of each parameter's change, by name.
        """
    @property
    def distance(self) -> float:
        """
        Of the change of all weights together.
        """
    @property
    def relative(self) -> float:
        """
        The distance over the norm of the start.
        """
class Online:
    """
    What stays between calls that keep adapted weights.
    """
    def __getstate__(self) -> tuple:
        ...
    def __init__(self) -> None:
        ...
    def __setstate__(self, arg0: tuple) -> None:
        ...
    def drift(self, model: typing.Any) -> Drift:
        """
        How far the model's weights are from those of the start.
        """
    def reset(self, model: typing.Any) -> None:
        """
        Writes the weights of the start back into the model, and forgets everything.
        """
class ModelHold:
    """
    Waits until no thread has other weights in a model or writes any into it, and keeps it so.
    """
    def __enter__(self) -> None:
        ...
    def __exit__(self, type: typing.Any, value: typing.Any, traceback: typing.Any) -> None:
        ...
    def __init__(self, model: typing.Any, is_alone: bool = False) -> None:
        ...
class Runners:
    """
    The ways of running a model.
    """
    def __init__(self, model: typing.Any, layer_name: str, output: typing.Any = None, layer_output: typing.Any = None) -> None:
        ...
    def explain(self, inputs: typing.Any) -> str:
        """
        How a call with these inputs would run, and why.
        """
    def why_not(self, inputs: typing.Any) -> str:
        """
        Why a call is not cut at the layer, but runs the model itself; empty if it is cut.
        """
class EngineParts:
    """
    A model, the layer to inject at, and the functions between them.
    """
    def __init__(self, runners: Runners, embedder: typing.Any, embeds_to_features: bool, combine_fn: typing.Any, distance_fn: typing.Any, prediction_layout: Layout, features_layout: Layout, neutral: torch.Tensor | None, in_dims: typing.Any, feeds_probabilities: bool) -> None:
        ...
class OptionInfo:
    """
    What is known of an option, for people and for other languages.
    """
    @property
    def accepted(self) -> str:
        """
        In words.
        """
    @property
    def default_text(self) -> str:
        """
        As Python writes it.
        """
    @property
    def documentation(self) -> str:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def type(self) -> str:
        """
        As Python writes it.
        """
def adapt(parts: EngineParts, inputs: typing.Any, options: dict, online: Online, with_details: bool = False) -> Adaptation:
    """
    The inner loop of IT3 on one batch; keeps what it adapted in `online` if copy_model is False.
    """
def arguments_of(inputs: typing.Any) -> tuple[tuple, dict]:
    """
    The positional and keyword arguments that a model is called with for these inputs.
    """
def batch_norm(x: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: typing.SupportsFloat | typing.SupportsIndex, statistics: typing.SupportsInt | typing.SupportsIndex, prior: typing.SupportsFloat | typing.SupportsIndex | None) -> torch.Tensor:
    """
    Batch normalization in eval mode by the statistics asked for.
    """
def broadcast_add(features: torch.Tensor, embedding: torch.Tensor, features_layout: Layout) -> torch.Tensor:
    """
    features + embedding, the embedding spread over the dimensions that it lacks.
    """
def channel_dim_of_kind(class_name: str) -> int | None:
    """
    The channel dimension that a layer of this class works on; None if it works on any.
    """
def check_distance(name: str) -> None:
    """
    Raises ValueError for a name that is not a distance's.
    """
def check_feedback(name: str) -> None:
    """
    Raises ValueError for a name that is no kind of feedback.
    """
def check_in_dims(in_dims: typing.Any) -> None:
    """
    Raises TypeError for what in_dims cannot be.
    """
def check_injection(parts: EngineParts, inputs: typing.Any) -> bool:
    """
    Raises ValueError if what is injected does not reach the prediction; whether the inputs could tell.
    """
def check_output_choice(output: typing.Any, layer_output: typing.Any) -> None:
    """
    Raises TypeError for what is no path, nor a function.
    """
def chosen_output(output: typing.Any, chosen: typing.Any, tensor_type: typing.Any) -> typing.Any:
    """
    The prediction in what a model returned, where instances of tensor_type count as tensors.
    """
def copies_with_shared_memory(tensors: collections.abc.Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """
    Copies of tensors; those that lie over the same memory do so in their copies too.
    """
def describe_layouts(parts: EngineParts, inputs: typing.Any) -> str:
    """
    Where features and prediction have their channels and samples, in words.
    """
def embed(prediction: torch.Tensor, features: torch.Tensor, weight1: torch.Tensor, bias1: torch.Tensor, weight2: torch.Tensor, bias2: torch.Tensor, prediction_layout: Layout, features_layout: Layout) -> torch.Tensor:
    """
    The default embedder: LeakyReLU(Linear(LeakyReLU(Linear(prediction)))) over channels.
    """
def is_between_distributions(name: str) -> bool:
    """
    Whether the distance of this name is one between class distributions.
    """
def is_elementwise(class_name: str) -> bool:
    """
    Whether a layer of this class works on each value by itself.
    """
def kind_of_layer(class_name: str, tensor: collections.abc.Callable[[str], torch.Tensor | None], batch_first: bool | None = None) -> LayerKind:
    """
    The kind of a layer by its class and its tensors, which a function gives by their names.
    """
def load_engine(path: str) -> dict:
    """
    Reads what save_engine() wrote, but for the TorchScript modules, which torch.jit.load reads.
    """
def make_embedder_weights(prediction: torch.Tensor, features: torch.Tensor, prediction_layout: Layout, features_layout: Layout) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    New weights of the default embedder for these two tensors: (F, C), (F), (F, F), (F).
    """
def option_infos() -> list[OptionInfo]:
    """
    All options, in the order in which they are documented.
    """
def options_of(options: dict) -> dict:
    """
    All options that are set, by default or by these. Raises what the core would raise for them.
    """
def overridden(options: dict, others: dict) -> dict:
    """
    Options with others in place of some. What says more about a choice that these change goes with that choice.
    """
def peak_memory(call: typing.Any) -> int:
    """
    The bytes that a call takes from torch's allocators at its peak, beyond what was held before.
    """
def quantile_of(values: collections.abc.Sequence[torch.Tensor], quantile: typing.SupportsFloat | typing.SupportsIndex) -> float:
    """
    A quantile of the values of some tensors together.
    """
def replace_at(output: typing.Any, chosen: typing.Any, replace: collections.abc.Callable, tensor_type: typing.Any, layer_name: str) -> typing.Any:
    """
    What a layer returned with the tensor that is injected into replaced.
    """
def sample_distances(second: torch.Tensor, first: torch.Tensor, batch_dim: typing.SupportsInt | typing.SupportsIndex = 0) -> torch.Tensor:
    """
    The Euclidean distance between two predictions of each sample: (B,).
    """
def save_engine(path: str, parts: EngineParts, options: dict, example_inputs: typing.Any, facts: dict) -> None:
    """
    Writes an engine of TorchScript parts to one archive.
    """
def settle_layouts(parts: EngineParts, inputs: typing.Any, of_prediction: Origin | None, of_features: Origin | None, needed: tuple[bool, bool]) -> tuple[Layout, Layout]:
    """
    The layouts of (prediction, features), by plain passes. Raises ValueError where one that is needed stays open.
    """
def submodule_of(model: typing.Any, name: str) -> typing.Any:
    """
    The submodule of a dotted name. Raises ValueError, with the nearest name, if there is none.
    """
def training_losses(parts: EngineParts, inputs: typing.Any, target: torch.Tensor | None = None, target_probability: typing.SupportsFloat | typing.SupportsIndex | None = None) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """
    (y0, loss_ttt), the two terms of ZigZag's training loss; and whether it is class probabilities that such targets teach to feed back.
    """
def uncertainty(parts: EngineParts, inputs: typing.Any, options: dict) -> torch.Tensor:
    """
    The distance between the two predictions of each sample: (B,).
    """
def use_plain_backward(on: bool) -> None:
    """
    Whether plain autograd graphs are run backwards without torch's engine, as they are from the start.
    """
def why_not_recorded(parts: EngineParts, inputs: typing.Any, options: dict) -> str:
    """
    Why a call is not recorded and replayed as a CUDA graph; empty if it is.
    """
__version__: str = '0.1.0'
untrained_warning: str = "this engine's embedder was never trained, so that adaptation follows noise: IT3 needs its own training of the model and the embedder, by the losses of the engine in train mode. If the embedder was trained elsewhere, set is_trained"
