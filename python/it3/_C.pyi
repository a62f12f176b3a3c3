"""
The C++ core of it3.
"""
from __future__ import annotations
import collections.abc
import torch
import typing
__all__: list[str] = ['Adaptation', 'Calibration', 'Capture', 'Compiled', 'DrawnLabels', 'Drift', 'EmbedderHold', 'Engine', 'EngineSetup', 'Explanation', 'LayerKind', 'Layout', 'LoadingHold', 'ModelHold', 'NewFile', 'OptionInfo', 'Origin', 'RandomOneHot', 'SavedPrograms', 'ShapeAndLayout', 'TracingHold', 'TrainingRecipe', 'Watch', 'arguments_of', 'broadcast_add', 'channel_dim_of_kind', 'check_distance', 'check_feedback', 'check_in_dims', 'check_output_choice', 'chosen_output', 'copies_with_shared_memory', 'embed', 'is_elementwise', 'kind_of_layer', 'load_engine', 'machine_of', 'make_embedder_weights', 'option_infos', 'options_of', 'overridden', 'peak_memory', 'replace_at', 'run_profiled', 'sample_distances', 'submodule_of', 'untrained_warning', 'use_compiled', 'use_plain_backward', 'use_python_parts', 'use_saved_programs', 'with_input_layer']
class Layout:
    """
    Which dimensions of a tensor are its samples and its channels.
    
    Examples
    --------
    >>> layout = it3.Layout(channel_dim=-1, batch_dim=1)  # (positions, samples, channels)
    >>> layout.channel_of(3), layout.batch_of(3)
    (2, 1)
    """
    def __eq__(self, arg0: typing.Any) -> bool:
        ...
    def __getstate__(self) -> tuple[int | None, int]:
        ...
    def __hash__(self) -> int:
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
class NewFile:
    """
    A file that appears under its name, by commit(), when it is complete. Raises RuntimeError, naming the file, if it cannot be written.
    """
    def __enter__(self) -> NewFile:
        ...
    def __exit__(self, type: typing.Any, value: typing.Any, traceback: typing.Any) -> None:
        """
        Commits it, or removes it after an exception.
        """
    def __init__(self, path: typing.Any) -> None:
        ...
    def commit(self) -> None:
        """
        Has the disk keep it, and renames it.
        """
    def discard(self) -> None:
        """
        Removes it, unless it was committed.
        """
    def write(self, data: bytes) -> None:
        ...
    @property
    def partial(self) -> str:
        """
        Where it is until then.
        """
class SavedPrograms:
    """
    The compiled programs in an engine's file, with the names of what they are run on.
    """
    def __init__(self, options: dict, device: torch.device, is_measured: bool, layer: str, adapted: collections.abc.Sequence[str], constants: collections.abc.Sequence[str | torch.Tensor]) -> None:
        ...
    def why_not(self, device: torch.device) -> str:
        """
        Why they cannot be run by this torch on this device; empty if they can.
        """
    @property
    def device_type(self) -> str:
        """
        Of the device that they were compiled for: "cpu" or "cuda".
        """
    @property
    def names(self) -> list[str]:
        """
        Of the tensors that they read beside what adapts, those that are not their own.
        """
class TrainingRecipe:
    """
    What the two passes of a training step are fed with, and how the second term of the loss counts: y1 is compared
    with the target, where one is given, whatever is fed back. Files of engines do not keep it.
    
    Parameters
    ----------
    first_pass
        What the first pass, y0, is fed with. "neutral": as at test time, the engine's neutral signal, or nothing
        where it has none. "drawn": the target with ``target_probability``, else that, as in the authors' programs.
    second_pass
        What the second pass, y1, is fed with. "target": y1 = f(x | y), as in ZigZag's loss (IT3, arXiv 2410.04201,
        Eq. 1). "prediction": y1 = f(x | y0), as at test time, with gradients through y0. "detached_prediction":
        the same with y0 as a constant. "drawn": the target with ``target_probability``, else y0 as a constant.
        "none": there is no second pass, and ``loss_ttt`` is 0.
    weight
        ``loss_ttt`` is multiplied by it.
    target_probability
        Of "drawn". None: 0.5.
    drawn_for
        Of "drawn": whether each "sample" is drawn for, or the whole "batch". None: each sample; the batch for
        the first pass without a neutral signal.
    noise
        Standard deviation of Gaussian noise on what is fed back, in its units.
    
    Raises
    ------
    ValueError
        For other names, numbers out of range, and for what says more about a draw where none is made.
    
    Examples
    --------
    >>> recipe = it3.TrainingRecipe(second_pass="detached_prediction", weight=0.5)
    >>> engine = it3.IT3Engine(model, "0", training_recipe=recipe)
    """
    def __eq__(self, arg0: typing.Any) -> bool:
        ...
    def __getstate__(self) -> tuple:
        ...
    def __hash__(self) -> int:
        ...
    def __init__(self, *, first_pass: str = 'neutral', second_pass: str = 'target', weight: typing.SupportsFloat | typing.SupportsIndex = 1.0, target_probability: typing.SupportsFloat | typing.SupportsIndex | None = None, drawn_for: str | None = None, noise: typing.SupportsFloat | typing.SupportsIndex = 0.0) -> None:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, arg0: tuple) -> None:
        ...
    @property
    def drawn_for(self) -> str | None:
        ...
    @property
    def first_pass(self) -> str:
        ...
    @property
    def noise(self) -> float:
        ...
    @property
    def second_pass(self) -> str:
        ...
    @property
    def target_probability(self) -> float | None:
        ...
    @property
    def weight(self) -> float:
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
class RandomOneHot:
    """
    A neutral signal: one of the classes, all as probable, drawn for each call, sample and position.
    
    Examples
    --------
    >>> it3.RandomOneHot()
    RandomOneHot()
    """
    def __getstate__(self) -> tuple[()]:
        ...
    def __init__(self) -> None:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, arg0: tuple) -> None:
        ...
class DrawnLabels:
    """
    A neutral signal: one of some labels, all as probable, drawn for each call and sample.
    
    Parameters
    ----------
    labels
        (N, ...): class indices, or labels in the shape of a prediction, samples first; such as those of training.
    
    Raises
    ------
    ValueError
        For labels that are not finite real numbers, or none.
    
    Examples
    --------
    >>> it3.DrawnLabels(torch.tensor([0.5, 2.0, 1.5]))
    DrawnLabels(3 labels)
    """
    def __getstate__(self) -> tuple[torch.Tensor]:
        ...
    def __init__(self, labels: torch.Tensor) -> None:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, arg0: tuple) -> None:
        ...
    @property
    def labels(self) -> torch.Tensor:
        ...
class Watch:
    """
    What code has read of Python; see it3.cutting.reads.
    """
    def __init__(self, facts: list) -> None:
        ...
    def __len__(self) -> int:
        ...
    def has_changed(self) -> bool:
        """
        Whether anything is not as it was.
        """
class ShapeAndLayout:
    """
    The shape of a tensor, and where its channels and samples are.
    """
    def __repr__(self) -> str:
        ...
    @property
    def layout(self) -> Layout:
        """
        Its dimensions count from 0; no channels in one dimension.
        """
    @property
    def shape(self) -> tuple:
        ...
class Explanation:
    """
    How calls of an engine with some inputs run, and why. Its text has a line for each of these.
    """
    def __repr__(self) -> str:
        ...
    @property
    def compiled(self) -> str:
        """
        What becomes of compiled programs; '' where there are none.
        """
    @property
    def features(self) -> ShapeAndLayout:
        """
        The layer's output.
        """
    @property
    def fed_back(self) -> str:
        """
        What is fed back of y0: 'softmax(y0)' or 'y0'.
        """
    @property
    def is_compiled(self) -> bool:
        """
        Whether compiled programs are called.
        """
    @property
    def is_cut(self) -> bool:
        """
        Whether what comes before the layer runs once for both passes.
        """
    @property
    def prediction(self) -> ShapeAndLayout:
        ...
    @property
    def runs(self) -> str:
        """
        How the model runs, such as 'cut at the layer, a TorchScript module'.
        """
    @property
    def why_no_cuda_graph(self) -> str:
        """
        Why no CUDA graph is replayed; '' if one is, from the second like call on.
        """
    @property
    def why_not_shared(self) -> str:
        """
        Why a training step computes what comes before the layer in both passes; '' where it does not, or where no step has found out.
        """
    @property
    def why_whole(self) -> str:
        """
        Why the model is not cut; '' if it is.
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
    def feeds_probabilities(self) -> bool:
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
    def prediction_layout(self) -> Layout:
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
    
    Examples
    --------
    >>> adaptation = engine.adapt(x, online=True, threshold=None)
    >>> drift = engine.drift()
    >>> drift.distance > 0, [name for name, _ in drift.by_parameter]
    (True, ['0.weight', '0.bias', '2.weight', '2.bias'])
    >>> engine.reset()
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
class ModelHold:
    """
    Waits until no thread has other weights in a model or writes any into it, and keeps it so.
    """
    def __enter__(self) -> None:
        ...
    def __exit__(self, type: typing.Any, value: typing.Any, traceback: typing.Any) -> None:
        ...
    def __init__(self, model: typing.Any) -> None:
        ...
class EngineSetup:
    """
    What an engine's attributes were at one moment, for the calls that begin then.
    """
    def explain(self, inputs: typing.Any, options: dict) -> Explanation:
        """
        How a call would run, and why.
        """
    def uncertainty(self, inputs: typing.Any, options: dict) -> torch.Tensor:
        """
        The distance between the two predictions of each sample: (B,).
        """
    @property
    def features_layout(self) -> Layout:
        ...
    @property
    def has_neutral(self) -> bool:
        ...
    @property
    def is_looked_at(self) -> bool:
        ...
    @property
    def layer_name(self) -> str:
        ...
    @property
    def model(self) -> typing.Any:
        ...
    @property
    def prediction_layout(self) -> Layout:
        ...
class EmbedderHold:
    """
    Waits until no thread gives a setup's embedder its shape or looks at it, and keeps it so.
    """
    def __enter__(self) -> None:
        ...
    def __exit__(self, type: typing.Any, value: typing.Any, traceback: typing.Any) -> None:
        ...
    def __init__(self, setup: EngineSetup) -> None:
        ...
class Calibration:
    """
    What batches that need no adaptation tell.
    """
    def __init__(self) -> None:
        ...
    def add(self, setup: EngineSetup, inputs: typing.Any, options: dict) -> None:
        """
        Takes one more batch in.
        """
class Engine:
    """
    The engine behind an it3.IT3Engine, its face.
    """
    calibrated_range: typing.Any
    is_trained: bool
    learned_probabilities: bool
    def __getstate__(self) -> tuple:
        ...
    def __init__(self, is_trained: bool) -> None:
        ...
    def __setstate__(self, arg0: tuple) -> None:
        ...
    def adapt(self, setup: EngineSetup, inputs: typing.Any, options: dict, with_details: bool = False) -> Adaptation:
        """
        The inner loop of IT3 on one batch; keeps what it adapted if copy_model is False.
        """
    def calibrate(self, calibration: Calibration, quantile: typing.SupportsFloat | typing.SupportsIndex) -> float:
        """
        The threshold; from then on the engine knows the range.
        """
    def description(self, setup: EngineSetup, inputs: typing.Any, options: dict, programs: SavedPrograms) -> bytes:
        """
        What a file holds of an engine around a program of torch.export, beside programs.
        """
    def drift(self, model: typing.Any) -> Drift:
        """
        How far the model's weights are from those of the start.
        """
    def keep_up(self, face: typing.Any) -> None:
        """
        Forgets what belongs to attributes that the face has no more; for before an engine is pickled, and after it is unpickled.
        """
    def look_at_first(self, setup: EngineSetup, inputs: typing.Any, of_prediction: Origin | None, of_features: Origin | None) -> EngineSetup:
        """
        Settles where channels and samples are, and checks that what is injected reaches the prediction.
        """
    def losses(self, setup: EngineSetup, inputs: typing.Any, target: torch.Tensor | None, recipe: TrainingRecipe) -> tuple[torch.Tensor, torch.Tensor]:
        """
        (y0, loss_ttt), the two terms of ZigZag's training loss.
        """
    def reset(self, model: typing.Any) -> None:
        """
        Writes the weights of the start back into the model, and forgets everything that was kept.
        """
    def save(self, setup: EngineSetup, file: NewFile, inputs: typing.Any, options: dict) -> None:
        """
        Writes an engine of TorchScript parts, and reads it back.
        """
    def setup_of(self, face: typing.Any) -> EngineSetup:
        """
        What the face's attributes are now; what is made of them is kept while they are the same.
        """
    def sibling(self) -> Engine:
        """
        An engine that knows what this one does, but has no adapted weights to keep or to go back to.
        """
    def takes_warning(self, options: dict) -> bool:
        """
        True once, where these options adapt an engine that was never trained.
        """
class TracingHold:
    """
    Waits until no thread traces by torch.export, and keeps it so.
    """
    def __enter__(self) -> None:
        ...
    def __exit__(self, type: typing.Any, value: typing.Any, traceback: typing.Any) -> None:
        ...
    def __init__(self) -> None:
        ...
class LoadingHold:
    """
    Waits until no thread loads a compiled program, and keeps it so.
    """
    def __enter__(self) -> None:
        ...
    def __exit__(self, type: typing.Any, value: typing.Any, traceback: typing.Any) -> None:
        ...
    def __init__(self) -> None:
        ...
class Capture:
    """
    One kind of call of an engine, whose evaluations are recorded.
    """
    def __init__(self, setup: EngineSetup, inputs: typing.Any, options: dict) -> None:
        ...
    def answer(self, network: typing.Any, weights: collections.abc.Sequence[torch.Tensor], inputs: collections.abc.Sequence[torch.Tensor], with_second: bool) -> list[torch.Tensor | None]:
        """
        The predictions.
        """
    def batch_norm(self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, running_mean: torch.Tensor, running_var: torch.Tensor, eps: typing.SupportsFloat | typing.SupportsIndex) -> torch.Tensor:
        """
        Batch normalization as norm_statistics says.
        """
    def check(self, constants: collections.abc.Sequence[torch.Tensor]) -> None:
        """
        Raises ValueError where what adapts shares memory with anything else.
        """
    def close(self) -> None:
        """
        Lets the model go, so that other threads may change it.
        """
    def step(self, network: typing.Any, weights: collections.abc.Sequence[torch.Tensor], anchor: collections.abc.Sequence[torch.Tensor], inputs: collections.abc.Sequence[torch.Tensor], rows: torch.Tensor | None) -> list[torch.Tensor | None]:
        """
        The loss, the first prediction, and the gradients of the loss by the weights.
        """
    @property
    def adapted(self) -> list[torch.Tensor]:
        ...
    @property
    def description(self) -> str:
        ...
    @property
    def has_anchor(self) -> bool:
        ...
    @property
    def has_functions(self) -> bool:
        ...
    @property
    def inputs(self) -> list[torch.Tensor]:
        ...
    @property
    def neutral(self) -> torch.Tensor | None:
        ...
    @property
    def normalizes_by_batch(self) -> bool:
        ...
    @property
    def per_sample(self) -> bool:
        ...
    @property
    def program(self) -> typing.Any:
        ...
    @property
    def reads(self) -> list[torch.Tensor]:
        ...
class Compiled:
    """
    The evaluations of an engine as programs.
    """
    def __init__(self, capture: Capture, constants: collections.abc.Sequence[torch.Tensor], folder: str, is_measured: bool, watch: Watch | None) -> None:
        """
        Reads programs from a folder, see Compiled::Programs::read().
        """
def arguments_of(inputs: typing.Any) -> tuple[tuple, dict]:
    """
    The positional and keyword arguments that a model is called with for these inputs.
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
def embed(prediction: torch.Tensor, features: torch.Tensor, weights: collections.abc.Sequence[torch.Tensor], extra_channels: typing.SupportsInt | typing.SupportsIndex, prediction_layout: Layout, features_layout: Layout) -> torch.Tensor:
    """
    The default embedder: LeakyReLU(Linear(LeakyReLU(Linear(prediction)))) over channels, by (weight1, bias1, weight2, bias2); with extra channels and no weights, the prediction in these, the last.
    """
def is_elementwise(class_name: str) -> bool:
    """
    Whether a layer of this class works on each value by itself.
    """
def kind_of_layer(class_name: str, tensor: collections.abc.Callable[[str], torch.Tensor | None], batch_first: bool | None = None) -> LayerKind:
    """
    The kind of a layer by its class and its tensors, which a function gives by their names.
    """
def load_engine(path: typing.Any) -> dict:
    """
    Reads what Engine.save() wrote, but for the TorchScript modules, which torch.jit.load reads.
    """
def machine_of(device: torch.device) -> list[str]:
    """
    What compiled code for a device needs of the machine.
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
def replace_at(output: typing.Any, chosen: typing.Any, replace: collections.abc.Callable, tensor_type: typing.Any, layer_name: str) -> typing.Any:
    """
    What a layer returned with the tensor that is injected into replaced.
    """
def run_profiled(profiler: collections.abc.Callable, function: collections.abc.Callable) -> typing.Any:
    """
    Calls a function with this profiler, while one of the caller's waits, and returns its result.
    """
def sample_distances(second: torch.Tensor, first: torch.Tensor, layout: Layout, of_probabilities: bool) -> torch.Tensor:
    """
    The Euclidean distance between two predictions of each sample: (B,).
    """
def submodule_of(model: typing.Any, name: str) -> typing.Any:
    """
    The submodule of a dotted name. Raises ValueError, with the nearest name, if there is none.
    """
def use_compiled(engine: Engine, setup: EngineSetup, compiled: Compiled) -> None:
    """
    Lets calls with a setup be evaluated by programs, while the engine's attributes are the same.
    """
def use_plain_backward(on: bool) -> None:
    """
    Whether plain autograd graphs are run backwards without torch's engine, as they are from the start.
    """
def use_python_parts(embedder_class: typing.Any, tracing_plan: typing.Any, other_statistics: typing.Any, shared_head: typing.Any, exported_model_class: typing.Any) -> None:
    """
    Takes what of it3 is written in Python, and called by the core's bindings.
    """
def use_saved_programs(engine: Engine, setup: EngineSetup, inputs: typing.Any, programs: SavedPrograms, of_functions: collections.abc.Mapping[str, torch.Tensor], watch: Watch | None) -> None:
    """
    Lets calls of the kind of these be evaluated by programs. Raises RuntimeError where they do not fit the engine.
    """
def with_input_layer(model: typing.Any, extra_channels: typing.SupportsInt | typing.SupportsIndex, channel_dim: typing.SupportsInt | typing.SupportsIndex, argument: typing.SupportsInt | typing.SupportsIndex) -> typing.Any:
    """
    A torch._C.ScriptModule around a TorchScript module, with a layer "input" before it.
    """
untrained_warning: str = 'this engine was never trained, so adaptation follows noise. Train the model and the embedder together first: in train mode, engine(inputs, target=y) returns the prediction and the loss term loss_ttt, as engine.losses() does in C++. If they were trained elsewhere, set engine.is_trained = True or, in C++, engine.set_trained(true)'
