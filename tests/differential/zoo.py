"""A zoo of architectures with random weights, each adapted by it3 and by the naive reference."""

import copy
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import it3
import torch
from torch import Tensor, nn

from differential import zoo_models as own
from differential.check import same, snapshot, unchanged
from differential.naive import Embed, Layout, Method, Refusal, call, distance_by_name, first_path, at_path, to_double
from differential.naive_adapt import adapt, adapt_each
from differential.rig import TAKEN, Difference, attempt


@dataclass
class Animal:
    """A model, inputs in float64, and, where they are not the usual ones, its layer, its layouts and its output.

    `in_dims` are the inputs' for `per_sample`; None where samples cannot be told apart, such as the nodes of a graph.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    layer: str = ""
    channel: int | None = None
    output: tuple[Any, ...] | None = None
    in_dims: Any = None
    samples: int = 2
    is_fast: bool = False


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens(*shape: int, most: int = 9) -> Tensor:
    return torch.randint(1, most, shape, generator=torch.Generator().manual_seed(2))


def of_torch() -> list[Animal]:
    """torch's own layers, and graph networks."""
    series, image = lambda: floats(2, 5, 3), lambda: floats(2, 3, 8, 8)
    edges = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
    adjacency = (torch.eye(4) + torch.diag(torch.ones(3), 1)).double().expand(2, 4, 4).clone()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    several = (0, 0)
    made = [
        Animal("lstm", lambda: own.Recurrent(nn.LSTM), series, "embed", in_dims=0),
        Animal("lstm-out", lambda: own.Recurrent(nn.LSTM), series, "rnn", in_dims=0),
        Animal("gru-bidirectional", lambda: own.Recurrent(nn.GRU, True), series, "norm", in_dims=0),
        Animal("rnn", lambda: own.Recurrent(nn.RNN), series, "rnn", in_dims=0),
        Animal("gru-cell", own.CellByCell, series, "inlet", in_dims=0),
        Animal("encoder-mask", own.MaskedEncoder, lambda: (series(), padding), "encoder.layers.0", in_dims=several),
        Animal("encoder-mask-inside", own.MaskedEncoder, lambda: (series(), padding), "encoder.layers.1.linear1", in_dims=several),
        Animal("transformer", own.Translator, lambda: (tokens(2, 5), tokens(2, 4)), "transformer.encoder", in_dims=several),
        Animal("unet", own.UNet, lambda: floats(2, 1, 8, 8), "down2", in_dims=0),
        Animal("pixel-shuffle", own.SuperResolution, image, "body", in_dims=0),
        Animal("volume", own.Volume, lambda: floats(2, 1, 4, 5, 6), "conv", in_dims=0),
        Animal("tcn-weight-norm", own.DilatedCausal, lambda: floats(2, 2, 7), "first", in_dims=0),
        Animal("bag-of-words", own.BagOfWords, lambda: tokens(2, 6), "hidden", in_dims=0),
        Animal("two-towers", own.TwoTowers, lambda: {"a": floats(2, 4), "b": floats(2, 3)}, "left", in_dims={"a": 0, "b": 0}),
        Animal("experts", own.Experts, lambda: floats(2, 4), "inlet", in_dims=0),
        Animal("fourier-operator", own.Spectral, lambda: floats(2, 2, 8), "lift", in_dims=0),
        Animal("variational", own.Variational, lambda: floats(2, 6), "encoder", in_dims=0),
        Animal("deep-set", own.DeepSet, series, "each", in_dims=0),
        Animal("graph-convolution", lambda: own.DenseGraph(False), lambda: (floats(2, 4, 3), adjacency), "first", in_dims=several),
        Animal("graph-attention", lambda: own.DenseGraph(True), lambda: (floats(2, 4, 3), adjacency), "first", in_dims=several),
        Animal("message-passing", own.EdgeList, lambda: (floats(5, 3), edges, floats(6, 1)), "update"),
        Animal("graph-isomorphism", own.Isomorphism, lambda: {"x": floats(5, 3), "edge_index": edges}, "mlp.0"),
        Animal("tabular", own.Tabular, lambda: {"numbers": floats(3, 4), "categories": tokens(3, 2, most=4)}, "body.0", in_dims={"numbers": 0, "categories": 0}, samples=3),
    ]
    for animal in made:
        animal.is_fast = True
    return made


def of_torchvision() -> list[Animal]:
    """torchvision's models, small ones."""
    # Its wheel is for another build of torch, whose operators for detection these models do not need.
    library = torch.library.Library("torchvision", "DEF")
    sys.modules["torchvision_operators"] = library  # type: ignore[assignment]  (it undefines them when it dies)
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import models  # noqa: PLC0415
    from torchvision.models.convnext import CNBlockConfig  # noqa: PLC0415

    image = lambda: floats(2, 3, 32, 32)
    larger = lambda: floats(2, 3, 64, 64)
    blocks = [CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)]
    vit = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
    swin = {"patch_size": [4, 4], "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": [4, 4], "num_classes": 5}
    maxvit = {"input_size": (32, 32), "stem_channels": 8, "partition_size": 2, "block_channels": [8, 12], "block_layers": [1, 1], "head_dim": 4, "stochastic_depth_prob": 0.0, "num_classes": 5}
    return [
        Animal("tv-resnet18", lambda: models.resnet18(num_classes=5), image, "layer2", in_dims=0),
        Animal("tv-convnext", lambda: models.ConvNeXt(blocks, num_classes=5), image, "features.1", in_dims=0),
        Animal("tv-convnext-inside", lambda: models.ConvNeXt(blocks, num_classes=5), image, "features.1.0.block.3", -1, in_dims=0),
        Animal("tv-vit", lambda: models.VisionTransformer(**vit, num_classes=5), image, "encoder.layers.encoder_layer_0", in_dims=0),
        Animal("tv-swin", lambda: models.SwinTransformer(**swin), image, "features.1", -1, in_dims=0),
        Animal("tv-maxvit", lambda: models.MaxVit(**maxvit), image, "blocks.0", in_dims=0),
        Animal("tv-mobilenet", lambda: models.mobilenet_v3_small(num_classes=5), larger, "features.3", in_dims=0),
        Animal("tv-efficientnet", lambda: models.efficientnet_b0(num_classes=5), larger, "features.2", in_dims=0),
        Animal("tv-densenet", lambda: models.DenseNet(4, (2, 2), 8, num_classes=5), image, "features.denseblock1", in_dims=0),
        Animal("tv-squeezenet", lambda: models.squeezenet1_1(num_classes=5), larger, "features.3", in_dims=0),
        Animal("tv-shufflenet", lambda: models.shufflenet_v2_x0_5(num_classes=5), larger, "stage2", in_dims=0),
        Animal("tv-mnasnet", lambda: models.mnasnet0_5(num_classes=5), larger, "layers.8", in_dims=0),
        Animal("tv-regnet", lambda: models.regnet_y_400mf(num_classes=5), larger, "trunk_output.block1", in_dims=0),
        Animal("tv-googlenet", lambda: models.googlenet(num_classes=5, aux_logits=False, init_weights=False), larger, "inception3a", in_dims=0),
        Animal("tv-lraspp", lambda: models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3), larger, "backbone.3", output=("out",), in_dims=0),
        Animal("tv-fcn", lambda: models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=3, aux_loss=True), larger, "backbone.layer1", output=("out",), in_dims=0),
    ]


def of_timm() -> list[Animal]:
    """timm's models, by their registered names."""
    import timm  # noqa: PLC0415

    vision = {"img_size": 32, "num_classes": 5}
    described: list[tuple[str, dict[str, Any], int, str, int | None]] = [
        ("resnet10t", {}, 64, "layer2", None),
        ("convnext_atto", {}, 64, "stages.1", None),
        ("vit_tiny_patch16_224", {**vision, "depth": 2}, 32, "blocks.0", None),
        ("deit_tiny_distilled_patch16_224", {**vision, "depth": 2}, 32, "blocks.0", None),
        ("mixer_s32_224", {**vision, "num_blocks": 2, "embed_dim": 32}, 32, "blocks.0", None),
        ("resmlp_12_224", {**vision, "num_blocks": 2, "embed_dim": 32}, 32, "blocks.0", None),
        ("gmlp_ti16_224", {**vision, "num_blocks": 2}, 32, "blocks.0", None),
        ("swin_tiny_patch4_window7_224", {**vision, "embed_dim": 24, "depths": (1, 1), "num_heads": (3, 3), "window_size": 4}, 32, "layers.0", -1),
        ("swinv2_tiny_window8_256", {**vision, "embed_dim": 24, "depths": (1, 1), "num_heads": (3, 3), "window_size": 4}, 32, "layers.0", -1),
        ("poolformer_s12", {}, 64, "stages.1", None),
        ("edgenext_xx_small", {}, 64, "stages.1", None),
        ("repvgg_a0", {}, 32, "stages.1", None),
        ("ghostnet_050", {}, 64, "blocks.2", None),
        ("mobilevitv2_050", {}, 64, "stages.2", None),
        ("xcit_nano_12_p16_224", {"img_size": 32, "depth": 2}, 32, "blocks.0", None),
        ("levit_128s", {"img_size": 64}, 64, "stages.0", None),
        ("nf_regnet_b0", {}, 64, "stages.1", None),
        ("hrnet_w18_small", {}, 64, "layer1", None),
        ("starnet_s1", {}, 64, "stages.1", None),
        ("mobilenetv4_conv_small_035", {}, 64, "blocks.1", None),
        ("efficientformer_l1", {}, 64, "stages.1", None),
        ("metaformer_26", {}, 64, "", None),
        ("maxvit_pico_rw_256", {"img_size": 64}, 64, "stages.1", None),
        ("coatnet_pico_rw_224", {"img_size": 64}, 64, "stages.1", None),
    ]
    return [
        Animal(
            f"timm-{name}",
            lambda name=name, arguments=arguments: timm.create_model(name, **{"num_classes": 5, **arguments}),
            lambda size=size: floats(2, 3, size, size),
            layer,
            channel,
            in_dims=0,
        )
        for name, arguments, size, layer, channel in described
        if timm.is_model(name)
    ]


def of_transformers() -> list[Animal]:
    """transformers' models, of one or two layers; each gives a ModelOutput."""
    import transformers as t  # noqa: PLC0415

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 32}
    few = {**small, "num_labels": 3, "pad_token_id": 0}
    decoder = {**small, "use_cache": False, "num_key_value_heads": 2, "pad_token_id": 0}
    words, image = (lambda: {"input_ids": tokens(2, 6)}), (lambda: {"pixel_values": floats(2, 3, 32, 32)})
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32, "patch_size": 8, "num_labels": 3}
    encoder = {"vocab_size": 32, "d_model": 16, "pad_token_id": 0, "use_cache": False}
    both = lambda: {"input_ids": tokens(2, 6), "decoder_input_ids": tokens(2, 4)}
    described: list[tuple[str, Callable[[], nn.Module], Callable[[], Any], str, int | None]] = [
        ("bert", lambda: t.BertForSequenceClassification(t.BertConfig(**few)), words, "bert.encoder.layer.0.output", None),
        ("bert-tokens", lambda: t.BertForTokenClassification(t.BertConfig(**few)), words, "bert.embeddings", None),
        ("distilbert", lambda: t.DistilBertForSequenceClassification(t.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=32)), words, "distilbert.embeddings", None),
        ("roberta", lambda: t.RobertaForMaskedLM(t.RobertaConfig(**few)), words, "roberta.embeddings", None),
        ("electra", lambda: t.ElectraForSequenceClassification(t.ElectraConfig(**few, embedding_size=8)), words, "electra.embeddings", None),
        ("albert", lambda: t.AlbertForSequenceClassification(t.AlbertConfig(**few, embedding_size=8)), words, "albert.embeddings", None),
        ("deberta", lambda: t.DebertaV2ForSequenceClassification(t.DebertaV2Config(**few)), words, "deberta.embeddings", None),
        ("gpt2", lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, use_cache=False)), words, "transformer.wte", None),
        ("llama", lambda: t.LlamaForCausalLM(t.LlamaConfig(**decoder)), words, "model.layers.0.mlp", None),
        ("mistral", lambda: t.MistralForCausalLM(t.MistralConfig(**decoder)), words, "model.layers.0.mlp", None),
        ("qwen2", lambda: t.Qwen2ForSequenceClassification(t.Qwen2Config(**decoder, num_labels=3)), words, "model.layers.0.mlp", None),
        ("opt", lambda: t.OPTForCausalLM(t.OPTConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24, word_embed_proj_dim=16, use_cache=False)), words, "model.decoder.embed_tokens", None),
        ("mamba", lambda: t.MambaForCausalLM(t.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, state_size=4, use_cache=False)), words, "backbone.embeddings", None),
        ("t5", lambda: t.T5ForConditionalGeneration(t.T5Config(**encoder, d_kv=8, d_ff=24, num_layers=1, num_heads=2)), both, "encoder.block.0.layer.1", None),
        ("bart", lambda: t.BartForConditionalGeneration(t.BartConfig(**encoder, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24)), both, "model.encoder.layernorm_embedding", None),
        ("vit", lambda: t.ViTForImageClassification(t.ViTConfig(**vision)), image, "vit.embeddings", None),
        ("dinov2", lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**vision)), image, "dinov2.embeddings", None),
        ("segformer", lambda: t.SegformerForSemanticSegmentation(t.SegformerConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8, num_labels=3)), image, "decode_head.linear_fuse", 1),
        ("resnet", lambda: t.ResNetForImageClassification(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=3)), image, "resnet.embedder", None),
        ("convnextv2", lambda: t.ConvNextV2ForImageClassification(t.ConvNextV2Config(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, num_labels=3)), image, "convnextv2.encoder.stages.0", None),
        ("patchtst", lambda: t.PatchTSTForRegression(t.PatchTSTConfig(num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=12, num_targets=2)), lambda: {"past_values": floats(2, 16, 2)}, "model.encoder.layers.0", None),
    ]
    return [
        Animal(f"hf-{name}", model, inputs, layer, channel, ("prediction_outputs" if False else "regression_outputs",) if name == "patchtst" else ("logits",), {k: 0 for k in inputs()})
        for name, model, inputs, layer, channel in described
    ]


FAMILIES: dict[str, Callable[[], list[Animal]]] = {
    "torch": of_torch,
    "torchvision": of_torchvision,
    "timm": of_timm,
    "transformers": of_transformers,
}


def _output(animal: Animal, out: Any) -> tuple[Any, ...]:
    return animal.output if animal.output is not None else (first_path(out) or ())


def compare(animal: Animal) -> list[str]:
    """Adapt a step, measure uncertainty and, where it can be, adapt each sample. Gives what it3 refused."""
    torch.manual_seed(0)
    model = animal.model().double().eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    reference = copy.deepcopy(model)
    seen: list[Tensor] = []
    hook = reference.get_submodule(animal.layer).register_forward_hook(lambda _, __, out: seen.append(at_path(out, first_path(out) or ())))
    with torch.no_grad():
        out = call(reference, to_double(animal.inputs()))
    hook.remove()
    path = _output(animal, out)
    prediction = at_path(out, path)
    features = seen[0]
    p_layout = Layout(1 if prediction.dim() > 3 else -1, 0)
    if animal.name in ("fourier-operator",):
        p_layout = Layout(1, 0)
    usual = 1 if features.dim() > 3 or animal.name in ("tcn-weight-norm", "fourier-operator") else -1
    f_layout = Layout(usual if animal.channel is None else animal.channel, 0)
    f, c = f_layout.outwards(features).shape[1], p_layout.outwards(prediction).shape[1]
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(s, generator=generator, dtype=torch.float64) / 4 for s in [(f, c), (f,), (f, f), (f,)]]
    method = Method(animal.layer, Embed(weights, p_layout, f_layout), torch.add, distance_by_name("mse", p_layout.classes), p_layout, path)
    embedder = it3.Embedder().double()
    embedder.load_state_dict(dict(zip(("weight1", "bias1", "weight2", "bias2"), weights, strict=True)))
    arguments: dict[str, Any] = {"feedback": "prediction"} if "feedback" in TAKEN else {}
    if "output" in TAKEN and animal.output is not None:
        arguments["output"] = animal.output[0] if len(animal.output) == 1 else animal.output
    if "in_dims" in TAKEN and animal.in_dims is not None:
        arguments["in_dims"] = animal.in_dims
    options = {"num_steps": 1, "lr": 1e-3, "optimizer_name": "sgd"}
    built = attempt(lambda: it3.IT3Engine(model, animal.layer, embedder, optimization_parameters=options, **arguments).eval())
    if isinstance(built, ValueError):
        return [f"building: {built}"]
    refused = []
    before = snapshot(model)
    wanted = {
        "adapt": (lambda: built.adapt(animal.inputs()), lambda: adapt(method, reference, animal.inputs(), options)),
        "uncertainty": (lambda: built.uncertainty(animal.inputs()), lambda: method.uncertainty(reference, animal.inputs())),
    }
    if animal.in_dims is not None and ("in_dims" in TAKEN or animal.in_dims == 0):
        wanted["per_sample"] = (
            lambda: built.adapt(animal.inputs(), per_sample=True),
            lambda: adapt_each(method, reference, animal.inputs(), animal.in_dims, animal.samples, options),
        )
    for use, (product, naive) in wanted.items():
        expected = attempt(naive)
        actual = attempt(product)
        unchanged(before, snapshot(model))
        if isinstance(actual, ValueError):
            refused.append(f"{use}: {str(actual)[:300]}")
            continue
        if isinstance(expected, Refusal):
            raise Difference(f"{use}: right is an error with {expected}")
        if isinstance(expected, Tensor):
            same(actual, expected, use, 1e-6, 1e-8)
            continue
        for name in ("prediction", "first", "second", "losses", "uncertainty"):
            same(getattr(actual, name), getattr(expected, name), f"{use}: {name}", 1e-6, 1e-8)
        for name, value in expected.state.items():
            if name in dict(model.named_parameters()):
                same(actual.state_dict()[name], value, f"{use}: adapted {name}", 1e-6, 1e-8)
    return refused


def main() -> int:
    """Go through families, all or those named; 1 if it3 differs from the reference."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    differing = total = 0
    for family in sys.argv[1:] or FAMILIES:
        for animal in FAMILIES[family]():
            total += 1
            try:
                refused = compare(animal)
                print(f"{animal.name:36}", "; ".join(refused) or "agrees", flush=True)
            except Exception as error:
                differing += 1
                print(f"{animal.name:36} DIFFERS: {type(error).__name__}: {str(error)[:400]}", flush=True)
    print(f"{total} models, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
