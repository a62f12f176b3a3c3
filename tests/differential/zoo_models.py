"""Small networks of kinds that no package of the tests has: recurrent, graph, physics, and torch's own layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class Recurrent(nn.Module):
    """Classifies by the outputs at the end; `kind` is nn.LSTM, nn.GRU or nn.RNN."""

    def __init__(self, kind: type[nn.RNNBase], bidirectional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.rnn = kind(4, 5, num_layers=2, batch_first=True, bidirectional=bidirectional)
        self.norm = nn.LayerNorm(10 if bidirectional else 5)
        self.head = nn.Linear(10 if bidirectional else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(torch.tanh(self.embed(x)))
        return self.head(self.norm(out)[:, -1])


class CellByCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.cell, self.head = nn.Linear(3, 4), nn.GRUCell(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 5)
        for step in self.inlet(x).unbind(1):
            h = self.cell(step, h)
        return self.head(h)


class MaskedEncoder(nn.Module):
    """torch's encoder, with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.inlet, self.encoder = nn.Linear(3, 8), nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(self.inlet(x), src_key_padding_mask=padding).mean(1))


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(9, 8), nn.Embedding(9, 8)
        self.transformer = nn.Transformer(8, 2, 1, 1, 12, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 9)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=self.head.weight.dtype)
        out = self.transformer(self.source(source), self.target(target), tgt_mask=mask)
        return self.head(self.norm(out))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.up, self.head = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down1(x))
        low = torch.relu(self.norm(self.down2(skip)))
        return self.head(torch.cat([skip, self.up(low)], 1))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.tail, self.shuffle = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.tail(F.gelu(self.body(x))))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = (
            nn.Conv3d(1, 4, 3, padding=1),
            nn.InstanceNorm3d(4, affine=True),
            nn.Conv3d(4, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))))


class DilatedCausal(nn.Module):
    """A temporal convolutional network with weight normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Conv1d(2, 5, 2, dilation=1))
        self.second = parametrizations.weight_norm(nn.Conv1d(5, 5, 2, dilation=2))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(F.pad(x, (1, 0))))
        return self.head(torch.relu(self.second(F.pad(x, (2, 0)))).mean(-1))


class BagOfWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.hidden, self.head = nn.EmbeddingBag(11, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.bag(x))))


class TwoTowers(nn.Module):
    """One encoder for both, compared by a bilinear form."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join, self.head = (
            nn.Linear(4, 5),
            nn.Linear(3, 5),
            nn.Bilinear(5, 5, 6),
            nn.Linear(6, 2),
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.tanh(self.join(torch.tanh(self.left(a)), torch.tanh(self.right(b)))))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.gate = nn.Linear(4, 6), nn.Linear(6, 3)
        self.experts, self.head = nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.inlet(x))
        weights = self.gate(x).softmax(-1)
        return self.head(sum(w.unsqueeze(-1) * e(x) for w, e in zip(weights.unbind(-1), self.experts, strict=True)))


class Spectral(nn.Module):
    """A Fourier neural operator's layer: complex numbers between."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.pass_by, self.project = nn.Conv1d(2, 5, 1), nn.Conv1d(5, 5, 1), nn.Conv1d(5, 1, 1)
        self.real, self.imaginary = (nn.Parameter(torch.randn(5, 5, 3) / 5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        modes = torch.fft.rfft(x)
        low = torch.einsum("bim,iom->bom", modes[..., :3], torch.complex(self.real, self.imaginary))
        return self.project(
            torch.tanh(torch.fft.irfft(F.pad(low, (0, modes.shape[-1] - 3)), n=x.shape[-1]) + self.pass_by(x))
        )


class Variational(nn.Module):
    """An autoencoder without chance in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.log_var = nn.Linear(6, 5), nn.Linear(5, 2), nn.Linear(5, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 5), nn.SiLU(), nn.Linear(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.encoder(x))
        z = self.mean(h)
        return self.decoder(z + torch.randn_like(z) * self.log_var(h).exp() if self.training else z)


class DeepSet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.whole = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(torch.relu(self.each(x)).sum(1))


class DenseGraph(nn.Module):
    """Graph convolution, or attention over neighbors, with a dense adjacency for each graph."""

    def __init__(self, has_attention: bool) -> None:
        super().__init__()
        self.has_attention = has_attention
        self.first, self.second, self.head = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.score = nn.Linear(12, 1)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            h = layer(x)
            weights = adjacency / adjacency.sum(-1, keepdim=True)
            if self.has_attention and h.shape[-1] == 6:
                n = h.shape[1]
                pairs = torch.cat([h.unsqueeze(2).expand(-1, -1, n, -1), h.unsqueeze(1).expand(-1, n, -1, -1)], -1)
                weights = self.score(pairs).squeeze(-1).masked_fill(adjacency == 0, -1e9).softmax(-1)
            x = torch.relu(weights @ h)
        return self.head(x.mean(1))


class EdgeList(nn.Module):
    """Message passing over a list of edges; the nodes are the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update, self.norm, self.head = (
            nn.Linear(7, 6),
            nn.Linear(9, 6),
            nn.LayerNorm(6),
            nn.Linear(6, 2),
        )

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        source, target = edge_index
        messages = torch.relu(self.message(torch.cat([x[source], x[target], edge_attr], -1)))
        summed = x.new_zeros(len(x), 6).index_add(0, target, messages)
        return self.head(self.norm(torch.relu(self.update(torch.cat([x, summed], -1)))))


class Isomorphism(nn.Module):
    """GIN on one large graph: batch normalization over nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.mlp = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        summed = torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])
        return self.head(self.mlp((1 + self.eps) * x + summed))


class Tabular(nn.Module):
    """Categories and numbers, by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleList([nn.Embedding(5, 3), nn.Embedding(4, 2)])
        self.body, self.head = nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 1)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        embedded = [e(c) for e, c in zip(self.embed, categories.unbind(1), strict=True)]
        return self.head(self.body(torch.cat([numbers, *embedded], 1))).squeeze(-1)
