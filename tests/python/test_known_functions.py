"""The functions that both passes of a training step may share, compared with what torch declares of its operators."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from it3 import IT3Engine
from it3.cutting import known_functions
from it3.cutting.known_functions import KNOWN, NORMS
from torch import Tensor, nn

DRAW = {"dropout", "alpha_dropout", "lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention"}
"""Whether they have drawn is found by the state of the generator, but for cuDNN's recurrent layers."""
OTHERS = re.compile(
    # What is not set, what is given, or takes, a tensor of another kind, and what has a state.
    r"empty|quantize|fbgemm|qparams|sparse|mkldnn|to_dense|coalesce|hspmm|smm|sspaddmm|indices$|^values|int_repr|^q_per"
    r"|native_batch_norm|batch_norm_|miopen|cudnn|backward|resize|pin_memory|as_strided|hash_tensor|_copy$"
    r"|^(data|grad|T|H)$"
    r"|^(align_as|align_to|refine_names|rename)$"  # names of dimensions, which torch 2.11 has yet
)


def overloads(name: str) -> list[Any]:
    """The schemas of an operator that are given tensors, but for those that write to an argument called out."""
    packet = getattr(torch.ops.aten, name, None)
    is_operator = isinstance(packet, torch._ops.OpOverloadPacket)  # and no method of Python's objects
    found = [getattr(packet, overload) for overload in packet.overloads()] if is_operator else []
    return [
        each
        for each in found
        if any("Tensor" in str(argument.type) for argument in each._schema.arguments)
        and not any(argument.is_out for argument in each._schema.arguments)
        and each.name() != "aten::sort.Tensor"  # which sorts a list
    ]


def written(overload: Any) -> list[str]:
    return [a.name for a in overload._schema.arguments if a.alias_info is not None and a.alias_info.is_write]


def draws(overload: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in overload.tags


def test_what_is_known_depends_on_its_arguments_alone() -> None:
    looked_at = 0
    for function in KNOWN:
        name = getattr(function, "__name__", "")
        for overload in overloads(name):
            if function in NORMS or name == "__get__":
                continue
            is_in_place = name.endswith("_")  # also operators such as __iadd__
            assert written(overload) in ([], ["self"] if is_in_place else []), overload
            assert not draws(overload) or name in DRAW, overload
            looked_at += 1
    assert looked_at > 1000


def test_all_that_depend_on_their_arguments_alone_are_known() -> None:
    public = {each for functions in torch.overrides.get_overridable_functions().values() for each in functions}
    unknown = set()
    for function in public - KNOWN:
        name = getattr(function, "__name__", "")
        found = overloads(name)
        is_pure = found and not any(written(each) or draws(each) for each in found)
        gives_tensors = all("Tensor" in str(given.type) for each in found for given in each._schema.returns)
        is_private = name.startswith("_") and not name.startswith("__")
        if is_pure and gives_tensors and not is_private and not OTHERS.search(name):
            unknown.add(name)
    assert unknown == set()


def test_each_name_is_one_of_torch() -> None:
    names = known_functions._NAMES
    assert len(set(names)) == len(names)
    assert [name for name in names if not any(hasattr(of, name) for of in known_functions._PLACES)] == []


class Masked(nn.Module):
    """Attention that leaves padding out, and a layer behind it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.embed, self.calls = kind, nn.Embedding(50, 32, padding_idx=0), 0
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.linear = nn.Linear(32, 32)
        self.layer, self.last = nn.Linear(32, 16), nn.Linear(16, 3)
        self.embed.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.linear(self.embed(tokens))
        padding = ~(tokens != 0)
        if self.kind == "attention":
            x = self.attention(x, x, x, key_padding_mask=padding)[0]
        elif self.kind == "encoder":
            x = self.encoder(x, src_key_padding_mask=padding)
        elif self.kind == "by hand":
            scores = x @ x.mT / 32**0.5
            scores = scores.masked_fill_(padding[:, None], float("-inf"))
            kept = padding.bitwise_not() & (tokens != 0).any(1, keepdim=True)
            x = scores.softmax(-1) @ x * kept[..., None]
        else:
            x = x.clone()
            x[padding] = 0.0
            x = torch.fft.fft(x, dim=1).real
        kept = ~padding[..., None]
        return self.last(self.layer((x * kept).sum(1) / kept.sum(1)).relu())


@pytest.mark.parametrize("kind", ["attention", "encoder", "by hand", "written"])
def test_masks_do_not_keep_the_passes_from_sharing(kind: str) -> None:
    torch.manual_seed(0)
    engine = IT3Engine(Masked(kind), "layer").train()
    tokens = torch.randint(1, 50, (64, 12))
    tokens[:, 9:] = 0
    target = torch.randn(64, 3)
    engine(tokens, target=target)
    engine.zero_grad()
    prediction, loss_ttt = engine(tokens, target=target)
    (F.mse_loss(prediction, target) + loss_ttt).backward()
    assert engine.explain(tokens).why_not_shared == ""
    actual = {name: p.grad.clone() for name, p in engine.model.named_parameters() if p.grad is not None}

    engine.zero_grad()
    # As it asks for data, whose writes cannot be seen, nothing is shared any more.
    handle = engine.model.embed.register_forward_hook(lambda _, __, y: setattr(y.data, "unused", 0))
    prediction, loss_ttt = engine(tokens, target=target)
    (F.mse_loss(prediction, target) + loss_ttt).backward()
    handle.remove()
    assert engine.explain(tokens).why_not_shared != ""
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, engine.model.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.parametrize("packed", [False, True])
def test_dropout_of_cudnn_is_never_shared(packed: bool) -> None:
    """It draws from a state of its own, which no generator of torch's tells of after the first call."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.last = nn.LSTM(64, 64, 2, dropout=0.5, batch_first=True), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            if packed:
                lengths = torch.full((len(x),), x.shape[1])
                x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            return self.last(self.lstm(x)[1][0][-1])

    torch.manual_seed(0)
    engine, x = IT3Engine(Network().cuda(), "last"), torch.randn(512, 8, 64, device="cuda")
    engine.train()
    engine.model(x)  # cuDNN's state is made
    for _ in range(3):
        engine(x)[1].backward()
    assert engine.explain(x).why_not_shared
