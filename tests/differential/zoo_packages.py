"""The zoo's models of torchvision, timm and transformers, of small configurations."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from differential.zoo_torch import Animal, floats, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN = "holds the channels"  # layers of several kinds make what is asked about, and sizes do not tell
LIBRARIES: list[torch.library.Library] = []


def operators_of_torchvision() -> None:
    """Declare operators that its wheel lacks beside another build of torch; only detection calls them."""
    if hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    LIBRARIES.append(library)  # which would take them back when it dies
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def of_torchvision() -> list[Animal]:
    """torchvision's models, small ones."""
    operators_of_torchvision()
    from torchvision import models  # noqa: PLC0415
    from torchvision.models.convnext import CNBlockConfig  # noqa: PLC0415

    def image() -> Tensor:
        return floats(2, 3, 32, 32)

    def larger() -> Tensor:
        return floats(2, 3, 64, 64)

    blocks = [CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)]
    vit = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
    swin = {
        "patch_size": [4, 4],
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": [4, 4],
        "num_classes": 5,
    }
    maxvit = {
        "input_size": (32, 32),
        "stem_channels": 8,
        "partition_size": 2,
        "block_channels": [8, 12],
        "block_layers": [1, 1],
        "head_dim": 4,
        "stochastic_depth_prob": 0.0,
        "num_classes": 5,
    }
    return [
        Animal("tv-resnet18", lambda: models.resnet18(num_classes=5), image, "layer2", in_dims=0),
        Animal("tv-convnext", lambda: models.ConvNeXt(blocks, num_classes=5), image, "features.1", in_dims=0),
        Animal(
            "tv-convnext-inside",
            lambda: models.ConvNeXt(blocks, num_classes=5),
            image,
            "features.1.0.block.3",
            -1,
            in_dims=0,
        ),
        Animal(
            "tv-vit",
            lambda: models.VisionTransformer(**vit, num_classes=5),
            image,
            "encoder.layers.encoder_layer_0",
            in_dims=0,
        ),
        Animal("tv-swin", lambda: models.SwinTransformer(**swin), image, "features.1", -1, in_dims=0),
        Animal("tv-maxvit", lambda: models.MaxVit(**maxvit), image, "blocks.0", in_dims=0, refused=OPEN),
        Animal("tv-mobilenet", lambda: models.mobilenet_v3_small(num_classes=5), larger, "features.3", in_dims=0),
        Animal(
            "tv-densenet",
            lambda: models.DenseNet(4, (2, 2), 8, num_classes=5),
            image,
            "features.denseblock1",
            in_dims=0,
        ),
        Animal("tv-squeezenet", lambda: models.squeezenet1_1(num_classes=5), larger, "features.3", in_dims=0),
        Animal("tv-shufflenet", lambda: models.shufflenet_v2_x0_5(num_classes=5), larger, "stage2", in_dims=0),
        Animal("tv-regnet", lambda: models.regnet_y_400mf(num_classes=5), larger, "trunk_output.block1", in_dims=0),
        Animal(
            "tv-lraspp",
            lambda: models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3),
            larger,
            "backbone.3",
            output=("out",),
            in_dims=0,
        ),
    ]


def of_timm() -> list[Animal]:
    """timm's models, by their registered names."""
    operators_of_torchvision()
    import timm  # noqa: PLC0415

    vision = {"img_size": 32, "num_classes": 5}
    described: list[tuple[str, dict[str, Any], int, str, int]] = [
        ("resnet10t", {}, 64, "layer2", 0),
        ("convnext_atto", {}, 64, "stages.1", 0),
        ("vit_tiny_patch16_224", {**vision, "depth": 2}, 32, "blocks.0", 0),
        ("deit_tiny_distilled_patch16_224", {**vision, "depth": 2}, 32, "blocks.0", 0),
        (
            "swin_tiny_patch4_window7_224",
            {**vision, "embed_dim": 24, "depths": (1, 1), "num_heads": (3, 3), "window_size": 4},
            32,
            "layers.0",
            -1,
        ),
        (
            "swinv2_tiny_window8_256",
            {**vision, "embed_dim": 24, "depths": (1, 1), "num_heads": (3, 3), "window_size": 4},
            32,
            "layers.0",
            -1,
        ),
        ("poolformer_s12", {}, 64, "stages.1", 0),
        ("edgenext_xx_small", {}, 64, "stages.1", 0),
        ("repvgg_a0", {}, 32, "stages.1", 0),
        ("ghostnet_050", {}, 64, "blocks.2", 0),
        ("mobilevitv2_050", {}, 64, "stages.2", 0),
        ("xcit_nano_12_p16_224", {"img_size": 32, "depth": 2}, 32, "blocks.0", 0),
        ("levit_128s", {"img_size": 64}, 64, "stages.0", 0),
        ("nf_regnet_b0", {}, 64, "stages.1", 0),
        ("starnet_s1", {}, 64, "stages.1", 0),
        ("mobilenetv4_conv_small_035", {}, 64, "blocks.1", 0),
        ("maxvit_pico_rw_256", {"img_size": 64}, 64, "stages.1", 0),
        ("coatnet_pico_rw_224", {"img_size": 64}, 64, "stages.1", 0),
    ]
    mixers = [
        Animal(
            f"timm-{name}",
            lambda arguments=arguments: timm.models.mlp_mixer.MlpMixer(5, 32, num_blocks=2, embed_dim=16, **arguments),
            lambda: floats(2, 3, 32, 32),
            "blocks.0",
            in_dims=0,
        )
        for name, arguments in (
            ("mixer", {}),
            ("resmlp", {"block_layer": timm.models.mlp_mixer.ResBlock, "mlp_ratio": 4}),
            (
                "gmlp",
                {
                    "block_layer": timm.models.mlp_mixer.SpatialGatingBlock,
                    "mlp_layer": timm.layers.GatedMlp,
                    "mlp_ratio": 6,
                },
            ),
        )
    ]
    return mixers + [
        Animal(
            f"timm-{name}",
            lambda name=name, arguments=arguments: timm.create_model(name, **{"num_classes": 5, **arguments}),
            lambda size=size: floats(2, 3, size, size),
            layer,
            channel,
            # Of one sample, torch's own gradient of the convolutions is not what finite differences give.
            in_dims=None if name.startswith("xcit") else 0,
            refused=OPEN if name.startswith("levit") else "",
        )
        for name, arguments, size, layer, channel in described
        if timm.is_model(name)
    ]


def of_transformers() -> list[Animal]:
    """transformers' models, of one or two layers; each gives a ModelOutput."""
    operators_of_torchvision()
    import transformers as t  # noqa: PLC0415

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 32,
    }
    few = {**small, "num_labels": 3, "pad_token_id": 0}
    decoder = {**small, "use_cache": False, "num_key_value_heads": 2, "pad_token_id": 0}
    words, image = (lambda: {"input_ids": tokens(2, 6)}), (lambda: {"pixel_values": floats(2, 3, 32, 32)})
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 32,
        "patch_size": 8,
        "num_labels": 3,
    }
    encoder = {"vocab_size": 32, "d_model": 16, "pad_token_id": 0, "use_cache": False}

    def both() -> dict[str, Tensor]:
        return {"input_ids": tokens(2, 6), "decoder_input_ids": tokens(2, 4)}

    described: list[tuple[str, Callable[[], nn.Module], Callable[[], Any], str, int]] = [
        (
            "bert",
            lambda: t.BertForSequenceClassification(t.BertConfig(**few)),
            words,
            "bert.encoder.layer.0.output",
            0,
        ),
        ("bert-tokens", lambda: t.BertForTokenClassification(t.BertConfig(**few)), words, "bert.embeddings", 0),
        (
            "distilbert",
            lambda: t.DistilBertForSequenceClassification(
                t.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=32)
            ),
            words,
            "distilbert.embeddings",
            0,
        ),
        ("roberta", lambda: t.RobertaForMaskedLM(t.RobertaConfig(**few)), words, "roberta.embeddings", 0),
        (
            "electra",
            lambda: t.ElectraForSequenceClassification(t.ElectraConfig(**few, embedding_size=8)),
            words,
            "electra.embeddings",
            0,
        ),
        (
            "albert",
            lambda: t.AlbertForSequenceClassification(t.AlbertConfig(**few, embedding_size=8)),
            words,
            "albert.embeddings",
            0,
        ),
        (
            "deberta",
            lambda: t.DebertaV2ForSequenceClassification(t.DebertaV2Config(**few)),
            words,
            "deberta.embeddings",
            0,
        ),
        (
            "gpt2",
            lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, use_cache=False)),
            words,
            "transformer.wte",
            0,
        ),
        ("llama", lambda: t.LlamaForCausalLM(t.LlamaConfig(**decoder)), words, "model.layers.0.mlp", 0),
        ("mistral", lambda: t.MistralForCausalLM(t.MistralConfig(**decoder)), words, "model.layers.0.mlp", 0),
        (
            "qwen2",
            lambda: t.Qwen2ForSequenceClassification(t.Qwen2Config(**decoder, num_labels=3)),
            words,
            "model.layers.0.mlp",
            0,
        ),
        (
            "opt",
            lambda: t.OPTForCausalLM(
                t.OPTConfig(
                    vocab_size=32,
                    hidden_size=16,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    ffn_dim=24,
                    word_embed_proj_dim=16,
                    use_cache=False,
                )
            ),
            words,
            "model.decoder.embed_tokens",
            0,
        ),
        (
            "t5",
            lambda: t.T5ForConditionalGeneration(t.T5Config(**encoder, d_kv=8, d_ff=24, num_layers=1, num_heads=2)),
            both,
            "encoder.block.0.layer.1",
            0,
        ),
        (
            "bart",
            lambda: t.BartForConditionalGeneration(
                t.BartConfig(
                    **encoder,
                    encoder_layers=1,
                    decoder_layers=1,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                    encoder_ffn_dim=24,
                    decoder_ffn_dim=24,
                )
            ),
            both,
            "model.encoder.layernorm_embedding",
            0,
        ),
        ("vit", lambda: t.ViTForImageClassification(t.ViTConfig(**vision)), image, "vit.embeddings", 0),
        ("dinov2", lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**vision)), image, "dinov2.embeddings", 0),
        (
            "segformer",
            lambda: t.SegformerForSemanticSegmentation(
                t.SegformerConfig(
                    hidden_sizes=[8, 8, 16, 16],
                    depths=[1, 1, 1, 1],
                    num_attention_heads=[1, 1, 2, 2],
                    decoder_hidden_size=8,
                    num_labels=3,
                )
            ),
            image,
            "decode_head.linear_fuse",
            1,
        ),
        (
            "resnet",
            lambda: t.ResNetForImageClassification(
                t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=3)
            ),
            image,
            "resnet.embedder",
            0,
        ),
        (
            "convnextv2",
            lambda: t.ConvNextV2ForImageClassification(
                t.ConvNextV2Config(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, num_labels=3)
            ),
            image,
            "convnextv2.encoder.stages.0",
            0,
        ),
        (
            "patchtst",
            lambda: t.PatchTSTForRegression(
                t.PatchTSTConfig(
                    num_input_channels=2,
                    context_length=16,
                    patch_length=4,
                    patch_stride=4,
                    d_model=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    ffn_dim=12,
                    num_targets=2,
                )
            ),
            lambda: {"past_values": floats(2, 16, 2)},
            "model.encoder.layers.0",
            -1,
        ),
    ]
    return [
        Animal(
            f"hf-{name}",
            model,
            inputs,
            layer,
            channel,
            output=("regression_outputs",) if name == "patchtst" else ("logits",),
            in_dims=dict.fromkeys(inputs(), 0),
            refused=OPEN if name == "vit" else "",
        )
        for name, model, inputs, layer, channel in described
    ]
