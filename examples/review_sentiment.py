"""Is a sentence positive or negative: trained on film reviews, tested on tweets and newspaper editorials.

People rated each sentence from -4 to 4 for VADER (Hutto and Gilbert, ICWSM 2014); those with a mean between -1 and 1
are left out. Settings are chosen on sentences of product reviews. There are as many positive as negative ones of each
kind, so that half are right by chance.
"""

import re
import sys
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from study import Study, batches_of
from study_run import run
from torch import Tensor, nn

ARCHIVE = Path(sys.prefix) / "share" / "vaderSentiment-3.3.2.tar.gz"
LEAST_RATING = 1.0
LENGTH = 32  # words of a sentence that count
LETTERS = 5  # of a word that count, so that "loves", "loved" and "loving" differ less from one another
PADDING, UNKNOWN, FIRST = 0, 1, 2  # words are FIRST and greater
TRAIN, CLEAN, EACH = 7680, 1280, 1088
BATCH = 32
WIDTH = 32
Sentences = list[tuple[str, int]]


class SentimentTransformer(nn.Module):
    """Words, (B, L) of integers, to scores of negative and positive, (B, 2)."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH)
        # With torch's own standard deviation of 1, what the words were drawn as outweighs what is learned.
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.positions = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.dropout = nn.Dropout(0.3)
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH)
        self.mixed = nn.Linear(WIDTH, WIDTH)
        self.hidden = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32))
        self.head = nn.Linear(32, 2)

    def forward(self, words: Tensor) -> Tensor:
        """Return scores."""
        is_word = words != PADDING
        x = self.dropout(self.embedding(words)) + self.positions
        query, key, value = self.attention(self.norm(x)).chunk(3, dim=-1)
        x = x + self.mixed(F.scaled_dot_product_attention(query, key, value, attn_mask=is_word[:, None]))
        mean = (x * is_word[..., None]).sum(1) / is_word.sum(1, keepdim=True)
        scores: Tensor = self.head(self.hidden(mean).relu())
        return scores


def read(name: str) -> Sentences:
    """Read the sentences of a file with their classes: 0 for negative, 1 for positive."""
    if not ARCHIVE.exists():
        raise FileNotFoundError(f"there is no {ARCHIVE}; `make study-review_sentiment` gets it")
    with tarfile.open(ARCHIVE) as outer:
        packed = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=packed) as inner:
            file = inner.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            if file is None:
                raise FileNotFoundError(f"{name} of {ARCHIVE} is no file")
            lines = file.read().decode().split("\r\n")
    rows = [line.split("\t") for line in lines if line]
    return [(text, int(float(rating) > 0)) for _, rating, text in rows if abs(float(rating)) >= LEAST_RATING]


def balanced(sentences: Sentences, count: int, generator: torch.Generator) -> Sentences:
    """Draw sentences, as many negative as positive, in a drawn order."""
    classes = torch.tensor([positive for _, positive in sentences])
    order = torch.randperm(len(sentences), generator=generator)
    rows = torch.cat([order[classes[order] == each][: count // 2] for each in (0, 1)])
    return [sentences[row] for row in rows[torch.randperm(len(rows), generator=generator)].tolist()]


def words_of(text: str) -> list[str]:
    """Cut a sentence into the beginnings of its words, numbers, and marks such as emoticons."""
    without_runs = re.sub(r"(.)\1{2,}", r"\1\1", text.lower())  # "soooo" is "soo"
    return [word[:LETTERS] for word in re.findall(r"[^\W\d_]+(?:'[a-z]+)?|\d+|[^\w\s]{1,3}", without_runs)]


def to_tensors(sentences: Sentences, vocabulary: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Return words, (N, L), and classes, (N,)."""
    words = torch.full((len(sentences), LENGTH), PADDING)
    for row, (text, _) in zip(words, sentences, strict=True):
        found = [vocabulary.get(word, UNKNOWN) for word in words_of(text)[:LENGTH]]
        row[: len(found)] = torch.tensor(found)
    return words, torch.tensor([positive for _, positive in sentences])


def without_unknown_words(words: Tensor) -> Tensor:
    """Leave out words that training did not have, except where no other would remain."""
    is_unknown = (words == UNKNOWN) & (words >= FIRST).any(1, keepdim=True)
    return words.masked_fill(is_unknown, PADDING)


def build() -> Study:
    """Read the sentences, and number the words of training."""
    generator = torch.Generator().manual_seed(0)
    films = balanced(read("movieReviewSnippets"), TRAIN + CLEAN, generator)
    others = {"products": "amazonReviewSnippets", "tweets": "tweets", "editorials": "nytEditorialSnippets"}
    counts = Counter(word for text, _ in films[:TRAIN] for word in words_of(text))
    vocabulary = {word: number for number, word in enumerate(counts, FIRST)}
    words, classes = to_tensors(films, vocabulary)
    shifts = {
        name: batches_of(*to_tensors(balanced(read(file), EACH, generator), vocabulary), BATCH)
        for name, file in others.items()
    }
    return Study(
        script="review_sentiment",
        title="Sentiment of tweets and editorials, learned from film reviews",
        make_network=partial(SentimentTransformer, FIRST + len(vocabulary)),
        layers=["hidden", "embedding", "mixed"],
        inputs=words[:TRAIN],
        targets=classes[:TRAIN],
        metric="accuracy",
        validation=shifts.pop("products"),
        clean=batches_of(words[TRAIN:], classes[TRAIN:], BATCH),
        shifts=shifts,
        shifts_share_samples=False,
        repairs={"without unknown words": without_unknown_words},
        epochs=5,
        learning_rate=2e-3,
    )


if __name__ == "__main__":
    run(build, __doc__)
