"""
Tokens: text of another kind
============================

You have a network for text, and at test time the text is of another kind. In some ten seconds this page gives an engine
token numbers and a mask as a dictionary, tells it which tensor is meant where layers and models return several, looks
whether its uncertainty tells the two kinds of text apart, and compares adaptation with its controls.

The network predicts y0. An *embedder*, a small network that is trained with it, feeds y0 back into one layer, which
gives a second prediction, y1. Adapting takes a few optimizer steps that bring the two together, without labels.
:doc:`/terms` explains the words.

The text is on your disk already: the network learns from *docstrings* which package they are from, matplotlib, pandas
or torch, and is tested on *comments* in the same packages' code. So your numbers depend on the versions you have
installed.
"""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import it3
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGES = ("matplotlib", "pandas", "torch")
EACH, LENGTH = 600, 16  # texts of a package, and words of a text that count
PADDING, UNKNOWN = 0, 1

# %%
# Text to tokens
# --------------
# Words are numbered in the order in which the training's docstrings have them; others are unknown. Inputs are a
# *dictionary*, with which the model is called by keywords: the numbers of the words, and a mask, as texts have
# different lengths.


def texts_of(package: str) -> tuple[list[str], list[str]]:
    """Read docstrings' first paragraphs, and comments of five words or more."""
    docstrings, comments = [], []
    files = Path(find_spec(package).origin).parent.rglob("*.py")
    for path in sorted(files, key=lambda path: (path.name, str(path))):
        source = path.read_text(encoding="utf-8")
        found = re.findall(r'"""(.*?)"""', source, re.DOTALL)
        docstrings += [docstring.strip().split("\n\n")[0] for docstring in found]
        comments += re.findall(r"^ *# ([A-Z]\w* (?:\S+ ){3}.*)", source, re.MULTILINE)
        if min(len(docstrings), len(comments)) >= EACH:
            return docstrings[:EACH], comments[:EACH]
    raise ValueError(f"{package} has too few docstrings or comments")


def batches_of(
    texts: list[tuple[list[str], int]],
) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Replace words by their numbers, and cut texts into batches of 50."""
    words = torch.full((len(texts), LENGTH), PADDING)
    for row, (text, _) in zip(words, texts, strict=True):
        known = [vocabulary.get(word, UNKNOWN) for word in text[:LENGTH]] or [UNKNOWN]
        row[: len(known)] = torch.tensor(known)
    packages = torch.tensor([package for _, package in texts])
    parts = zip(words.split(50), packages.split(50), strict=True)
    return [({"words": part, "mask": part != PADDING}, targets) for part, targets in parts]


docstrings, comments = [], []
for number, package in enumerate(PACKAGES):
    for texts, found in zip((docstrings, comments), texts_of(package), strict=True):
        texts += [(re.findall(r"[a-z]+|\d", text.lower()), number) for text in found]
order = torch.randperm(3 * EACH, generator=torch.Generator().manual_seed(0)).tolist()
docstrings, comments = ([texts[row] for row in order] for texts in (docstrings, comments))
known = dict.fromkeys(word for text, _ in docstrings[:1200] for word in text)  # as an ordered set
vocabulary = {word: number for number, word in enumerate(known, UNKNOWN + 1)}
training, clean = batches_of(docstrings[:1200]), batches_of(docstrings[1200:1500])
held_out = batches_of([(text[::3], package) for text, package in docstrings[1500:]])
test = batches_of(comments[:300])
for text, package in [docstrings[0], comments[0]]:
    print(f"{PACKAGES[package]}: {' '.join(text[:LENGTH])}")

# %%
# A transformer, and which of its tensors
# ---------------------------------------
# ``nn.MultiheadAttention`` returns a tuple, (states, weights), and this model a dictionary, as those of Hugging Face's
# transformers do. ``layer_output=0`` says that the prediction is fed into the states, and ``output="logits"`` which
# tensor is the prediction; where that lies deeper, ``output`` is a path, such as ``("heads", 1, "logits")``.


class TextNet(nn.Module):
    """Words, (B, L) of integers, and their mask to scores of the packages, (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2 + len(vocabulary), 32)
        self.attention = nn.MultiheadAttention(32, num_heads=2, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, len(PACKAGES)))

    def forward(self, words: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return the scores, and the states of the words, (B, L, 32)."""
        x = self.embedding(words)
        mixed, _ = self.attention(x, x, x, key_padding_mask=~mask, need_weights=False)
        states = self.norm(x + mixed)
        mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"states": states, "logits": self.head(mean)}


def train(seed: int) -> it3.IT3Engine:
    """Train a network on docstrings."""
    torch.manual_seed(seed)
    how = {"layer_output": 0, "output": "logits", "in_dims": 0, "distance_fn": "js"}
    engine = it3.IT3Engine(TextNet(), "attention", **how)
    optimizer = torch.optim.Adam(engine.parameters(), lr=1e-2)
    history = engine.fit(
        training,
        F.cross_entropy,
        epochs=2,
        optimizer=optimizer,
        validation=clean,
        metric="accuracy",
    )
    print(f"accuracy on other docstrings: {history.rows[-1]['score']:.3f}")
    return engine.eval()


engines = [train(seed) for seed in range(3)]
print(engines[0].explain(test[0][0]))

# %%
# Token numbers are integers, to which nothing can be added: the first layer at which y0 can be fed back is
# ``embedding``. Here the layer is ``attention``, and what the embedder makes of y0 is added to the states of each word,
# as ``explain`` tells: features have channels in dimension 2, samples in 0. ``in_dims=0`` says that dimension 0 of both
# inputs is that of the samples, which has to be known where some of them do not adapt.

# %%
# Does the uncertainty tell the shift?
# ------------------------------------
# ``engine.uncertainty`` is the distance between y1 and y0 of each text, without adapting. How well it tells comments
# from docstrings is how often, of one of each, the comment has the greater one: by chance, in 50 % of the pairs. Beside
# it stands what any classifier has, the entropy of its prediction. The pictures ask whether it tells *errors* on the
# comments, which is another question.


def entropy(inputs: dict[str, Tensor]) -> Tensor:
    """Return the entropy of each sample's prediction, (B,)."""
    p = engines[0].adapt(inputs, num_steps=0).prediction.softmax(1)
    return -(p * p.log()).sum(1)


def share_greater(measure: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """Return in what share of pairs a comment has a greater value than a docstring."""
    of_comments = torch.cat([measure(inputs) for inputs, _ in test])
    of_docstrings = torch.cat([measure(inputs) for inputs, _ in clean])
    return float((of_comments[:, None] > of_docstrings).float().mean())


print("greater for the comment, in a share of pairs:")
print(f"uncertainty: {share_greater(engines[0].uncertainty):.1%}")
print(f"entropy: {share_greater(entropy):.1%}")

uncertainty = torch.cat([engines[0].uncertainty(inputs) for inputs, _ in test])
predictions = engines[0].predict(test, num_steps=0).argmax(1)
errors = (predictions != torch.cat([y for _, y in test])).float()
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
it3.plots.uncertainty_against_error(uncertainty, errors, ax=left)
it3.plots.risk_coverage(uncertainty, errors, ax=right)
plt.show()

# %%
# Adapting those that need it
# ---------------------------
# ``calibrate`` sets the option ``threshold`` by docstrings, which need no adaptation: 95 % of texts like these shall
# not adapt. It is taken out again here, to be part of a variant below, for all three networks. The learning rate and
# the anchor, which network makes y1, are chosen on another shift than that of the test: docstrings of which every third
# word is left.

engines[0].calibrate(clean)
print(engines[0].adapt(test[0][0]))
threshold = engines[0].optimization_parameters.pop("threshold")
candidates = {
    "lr 1e-4, self": {"lr": 1e-4, "anchor": "self"},
    "lr 1e-3, frozen": {"lr": 1e-3, "anchor": "frozen"},
}
scores = it3.evaluate(engines[0], held_out, "accuracy", candidates).to_frame()["score"]
print(scores[["0 steps", *candidates]])
chosen = candidates[scores[list(candidates)].idxmax()]

# %%
# Does it help?
# -------------
# A repair is a function of the inputs: this one masks words that training did not have.


def without_unknown_words(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mask unknown words, except where no other would remain."""
    known = inputs["mask"] & (inputs["words"] != UNKNOWN)
    return {
        "words": inputs["words"],
        "mask": torch.where(known.any(1, keepdim=True), known, inputs["mask"]),
    }


evaluation = it3.evaluate(
    engines,
    test,
    "accuracy",
    {
        "defaults": {},
        "chosen": chosen,
        "chosen, uncertain texts alone": {**chosen, "threshold": threshold},
    },
    reference=torch.cat([y for _, y in training]),
    repairs={"without unknown words": without_unknown_words},
)
print(evaluation)

# %%
# The last lines are the verdict. Read it with the scores in view: where no row is far from 0 steps, neither adaptation
# nor a control repairs what the network lacks, which is to have seen such text.

it3.plots.gains(evaluation, ax=plt.figure(figsize=(9, 5.5), layout="constrained").gca())
plt.show()

# %%
# Where to go on
# --------------
# - A model of Hugging Face's transformers is named in the same way: ``it3.IT3Engine(bert, "bert.encoder",
#   layer_output="last_hidden_state", output="logits")``, and called with the dictionary of its tokenizer.
# - Film reviews, tweets and editorials, with a search of 2,000 ways to train and adapt: :doc:`/results`, where
#   uncertainties are compared with those of an ensemble too.
# - :meth:`it3.IT3Engine.predict` adapts to all batches, into a file if that is long.
# - Where several tensors of the input could hold samples, ``in_dims`` takes what ``torch.vmap`` takes.
