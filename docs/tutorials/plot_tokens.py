"""
Tokens: text of another kind
============================

You have a network for text, and at test time the text is of another kind. In ten seconds on one core you will have given
an engine token numbers and a mask as a dictionary, told it which tensor is meant where layers and models return several,
seen whether its uncertainty tells the other kind of text, and compared adaptation with its controls.

The text is on your disk already: the network learns from *docstrings* which package they are from, matplotlib, pandas or
torch, and is tested on *comments* in the same packages' code. So your numbers depend on the versions you have installed.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import it3
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGES = ("matplotlib", "pandas", "torch")
EACH, LENGTH = 800, 20  # texts of a package, and words of a text that count
PADDING, UNKNOWN = 0, 1

# %%
# Text to tokens
# --------------
# Words are numbered by their order in the training's docstrings; others are unknown. Inputs are a *dictionary*, with
# which the model is called by keywords: the numbers of the words, and a mask, as texts have different lengths.


def texts_of(package: str) -> tuple[list[str], list[str]]:
    """Read the first paragraphs of a package's docstrings, and its comments of five words or more."""
    docstrings, comments = [], []
    files = Path(find_spec(package).origin).parent.rglob("*.py")
    for path in sorted(files, key=lambda path: (path.name, str(path))):
        source = path.read_text(encoding="utf-8")
        docstrings += [each.strip().split("\n\n")[0] for each in re.findall(r'"""(.*?)"""', source, re.DOTALL)]
        comments += re.findall(r"^ *# ([A-Z]\w* (?:\S+ ){3}.*)", source, re.MULTILINE)
        if min(len(docstrings), len(comments)) >= EACH:
            return docstrings[:EACH], comments[:EACH]
    raise ValueError(f"{package} has too few docstrings or comments")


def batches_of(texts: list[tuple[list[str], int]]) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Number the words of texts, and cut them into batches of 50."""
    words = torch.full((len(texts), LENGTH), PADDING)
    for row, (text, _) in zip(words, texts, strict=True):
        known = [vocabulary.get(word, UNKNOWN) for word in text[:LENGTH]] or [UNKNOWN]
        row[: len(known)] = torch.tensor(known)
    packages = torch.tensor([package for _, package in texts])
    return [({"words": part, "mask": part != PADDING}, y) for part, y in zip(words.split(50), packages.split(50))]


docstrings, comments = [], []
for number, package in enumerate(PACKAGES):
    for texts, found in zip((docstrings, comments), texts_of(package), strict=True):
        texts += [(re.findall(r"[a-z]+|\d", text.lower()), number) for text in found]
order = torch.randperm(3 * EACH, generator=torch.Generator().manual_seed(0)).tolist()
docstrings, comments = ([texts[row] for row in order] for texts in (docstrings, comments))
vocabulary = {word: 2 + n for n, word in enumerate(dict.fromkeys(w for text, _ in docstrings[:1500] for w in text))}
training, clean = batches_of(docstrings[:1500]), batches_of(docstrings[1500:1900])
held_out = batches_of([(text[::3], package) for text, package in docstrings[1900:]])  # every third word
test = batches_of(comments[:800])
for text, package in [docstrings[0], comments[0]]:
    print(f"{PACKAGES[package]}: {' '.join(text[:LENGTH])}")

# %%
# A transformer, and which of its tensors
# ---------------------------------------
# ``nn.MultiheadAttention`` returns a tuple, (states, weights), and this model a dictionary, as those of Hugging Face's
# transformers do. ``layer_output=0`` says that the states are injected into, and ``output="logits"`` which tensor is the
# prediction; where it is deeper, ``output`` is a path, such as ``("heads", 1, "logits")``.


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


def train(seed: int, **arguments: it3.TrainingRecipe) -> it3.IT3Engine:
    """Train a network on docstrings."""
    torch.manual_seed(seed)
    engine = it3.IT3Engine(
        TextNet(), "attention", layer_output=0, output="logits", in_dims=0, distance_fn="js", **arguments
    )
    history = engine.fit(training, F.cross_entropy, epochs=4, validation=clean, metric="accuracy")
    print(f"accuracy on other docstrings: {history.rows[-1]['score']:.3f}")
    return engine


engines = [train(seed) for seed in range(3)]
plain = [train(seed, training_recipe=it3.TrainingRecipe(second_pass="none")) for seed in range(3)]
print(engines[0].explain(test[0][0]))

# %%
# Token numbers are integers, into which nothing can be added: the first place to feed back is the embedding's output.
# ``explain`` tells that the features have channels in dimension 2; the embedded prediction is added at each word.
#
# Does the uncertainty tell the shift?
# ------------------------------------
# ``engine.uncertainty`` is the distance between y1 and y0, without adapting. As a detector of the shift it is a number:
# how often a comment has a greater one than a docstring, where 0.5 is by chance. Beside it stands what any classifier
# has, the entropy of its prediction.


def entropy(inputs: dict[str, Tensor]) -> Tensor:
    """Return the entropy of each sample's prediction, (B,)."""
    p = engines[0].adapt(inputs, num_steps=0).prediction.softmax(1)
    return -(p * p.log()).sum(1)


for name, measure in {"uncertainty": engines[0].uncertainty, "entropy": entropy}.items():
    of_comments, of_docstrings = (torch.cat([measure(x) for x, _ in data]) for data in (test, clean))
    auroc = (of_comments[:, None] > of_docstrings).float().mean()
    print(f"{name}: greater for comments in {auroc:.1%} of pairs")
    if name == "uncertainty":
        uncertainty = of_comments

predictions = torch.cat([engines[0].adapt(x, num_steps=0).prediction for x, _ in test]).argmax(1)
errors = (predictions != torch.cat([y for _, y in test])).float()
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
it3.plots.uncertainty_against_error(uncertainty, errors, ax=left)
it3.plots.risk_coverage(uncertainty, errors, ax=right)

# %%
# Adapting those that need it
# ---------------------------
# ``calibrate`` sets a threshold from docstrings, which need no adaptation: 95 % of texts like these shall not adapt. Which
# steps and learning rate to take is chosen on yet another shift, docstrings of which every third word is left.

engines[0].calibrate(clean)
print(engines[0].adapt(test[0][0]))
threshold = engines[0].optimization_parameters.pop("threshold")
candidates = {f"lr {lr}, {anchor}": {"lr": lr, "anchor": anchor} for lr in (1e-4, 1e-3) for anchor in ("self", "frozen")}
scores = it3.evaluate(engines, held_out, "accuracy", candidates).to_frame()["score"]
print(scores)
chosen = candidates[scores[list(candidates)].idxmax()]

# %%
# Does it help?
# -------------
# A repair is a function of the inputs: this one masks words that training did not have.


def without_unknown_words(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mask unknown words, except where no other would remain."""
    known = inputs["mask"] & (inputs["words"] != UNKNOWN)
    return {"words": inputs["words"], "mask": torch.where(known.any(1, keepdim=True), known, inputs["mask"])}


evaluation = it3.evaluate(
    engines,
    test,
    "accuracy",
    {"defaults": {}, "chosen": chosen, "chosen, uncertain texts alone": {**chosen, "threshold": threshold}},
    without_second_term=plain,
    reference=torch.cat([y for _, y in training]),
    repairs={"without unknown words": without_unknown_words},
)
print(evaluation)
it3.plots.gains(evaluation, ax=plt.figure(figsize=(9, 5.5), layout="constrained").gca())
plt.show()
