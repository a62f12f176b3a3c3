"""Who of nine men says "ae": a network on cepstra, under noise and through other microphones.

The utterances are the Japanese vowels of Kudo, Toyama and Shimbo (1999). A cepstrum describes a spectrum, so that noise
and filters are computed in the spectrum that it stands for. Settings are chosen under hum and wrong playback speeds.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from study import Batches, Study, batches_of, folder_of
from study_run import run
from torch import Tensor, nn

TRAIN_OF_EACH = 20  # of 30 utterances of each speaker; the others are for validation
LENGTH = 29  # frames of the longest utterance
COEFFICIENTS = torch.arange(1, 13)
ANGLES = (torch.arange(64) + 0.5) * math.pi / 64  # 64 frequencies between none and half of the sampling rate
COSINES = torch.cos(ANGLES[:, None] * COEFFICIENTS)
HERTZ = ANGLES / math.pi * 5000  # the recordings have 10 kHz
BATCH = 24
Change = Callable[[Tensor], Tensor]


class SpeakerCNN(nn.Module):
    """Cepstra, (B, T, 12), to scores of 9 speakers; frames of zeros are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv1d(12, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU())
        self.block2 = nn.Sequential(nn.Conv1d(32, 48, 3, padding=1), nn.BatchNorm1d(48), nn.ReLU())
        self.hidden = nn.Linear(48, 48)
        self.head = nn.Linear(48, 9)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (B, 9)."""
        is_frame = is_frame_of(x).transpose(1, 2)
        features = self.block2(self.block1(x.transpose(1, 2)) * is_frame) * is_frame
        scores: Tensor = self.head(self.hidden(features.sum(2) / is_frame.sum(2)).relu())
        return scores


def is_frame_of(x: Tensor) -> Tensor:
    """Return which frames are no padding, (B, T, 1)."""
    return (x != 0).any(2, keepdim=True)


def read(part: str) -> tuple[list[Tensor], Tensor]:
    """Read the utterances, each (T, 12), and their speakers, (N,)."""
    folder = folder_of("aeon", "1.6.0") / "datasets" / "data" / "JapaneseVowels"
    lines = (folder / f"JapaneseVowels_{part}.ts").read_text().splitlines()
    rows = [line.split(":") for line in lines if line.strip() and line[0] not in "#@"]
    utterances = [torch.tensor([[float(value) for value in row.split(",")] for row in rows_of]) for *rows_of, _ in rows]
    return [utterance.T for utterance in utterances], torch.tensor([int(speaker) - 1 for *_, speaker in rows])


def spectrum(cepstra: Tensor) -> Tensor:
    """Return the logarithms of the power at each frequency, (T, 64), up to a constant."""
    return 2 * cepstra @ COSINES.T


def cepstra_of(spectra: Tensor) -> Tensor:
    """Return the cepstra, (T, 12), of logarithms of power, (T, 64)."""
    return spectra @ COSINES / len(ANGLES)


def noise(decibels: float, power: Tensor) -> Change:
    """Return a function that adds noise of a spectrum, (64,), by how much weaker than the utterance it is.

    All frames count as equally loud: the data's cepstra do not tell how loud they are.
    """

    def add(cepstra: Tensor) -> Tensor:
        heard = spectrum(cepstra).exp()
        return cepstra_of((heard + heard.mean() * 10 ** (-decibels / 10) * power / power.mean()).log())

    return add


def microphone(decibels: Tensor) -> Change:
    """Return a function that changes the power at each frequency, (64,)."""
    offset = cepstra_of(decibels / 10 * math.log(10))
    return lambda cepstra: cepstra + offset


def played(speed: float) -> Change:
    """Return a function that plays an utterance at another speed, which makes it as much shorter, and higher."""

    def play(cepstra: Tensor) -> Tensor:
        at = ((torch.arange(len(ANGLES)) + 0.5) / speed - 0.5).clamp(0, len(ANGLES) - 1)
        below = at.long().clamp(max=len(ANGLES) - 2)
        spectra = torch.lerp(spectrum(cepstra)[:, below], spectrum(cepstra)[:, below + 1], at - below)
        frames = max(round(len(cepstra) / speed), 1)
        return F.interpolate(cepstra_of(spectra).T[None], frames, mode="linear", align_corners=True)[0].T

    return play


def average_like(training: Tensor) -> Change:
    """Return a function that gives a batch's frames the mean of training's, whatever the microphone added.

    This is the usual normalization of cepstra. That by the mean of each utterance would take away who speaks.
    """
    mean = training[is_frame_of(training)[..., 0]].mean(0)

    def normalized(x: Tensor) -> Tensor:
        is_frame = is_frame_of(x)
        return (x - x[is_frame[..., 0]].mean(0) + mean) * is_frame

    return normalized


def build() -> Study:
    """Read the utterances, change them, and scale them by the training part."""
    utterances, speakers = read("TRAIN")
    test_utterances, test_speakers = read("TEST")
    # The file has the 30 utterances of one speaker after those of another.
    is_training = torch.arange(len(utterances)) % 30 < TRAIN_OF_EACH
    training, held_out = is_training.nonzero().flatten().tolist(), (~is_training).nonzero().flatten().tolist()
    frames = torch.cat([utterances[i] for i in training])
    generator = torch.Generator().manual_seed(0)
    held_out = [held_out[i] for i in torch.randperm(len(held_out), generator=generator)]
    order = torch.randperm(len(test_utterances), generator=generator).tolist()

    def padded(utterances: list[Tensor], change: Change) -> Tensor:
        scaled = [((change(utterance) - frames.mean(0)) / frames.std(0))[:LENGTH] for utterance in utterances]
        return torch.stack([F.pad(x, (0, 0, 0, LENGTH - len(x))) for x in scaled])

    def test(change: Change) -> Batches:
        return batches_of(padded([test_utterances[i] for i in order], change), test_speakers[order], BATCH)

    white, hum = torch.ones_like(HERTZ), 1 / HERTZ
    is_in_telephone = (HERTZ > 300) & (HERTZ < 3400)
    inputs = padded([utterances[i] for i in training], lambda cepstra: cepstra)
    validation = [
        batches_of(padded([utterances[i] for i in held_out], change), speakers[held_out], BATCH)
        for change in (noise(15, hum), noise(10, hum), played(0.95), played(1.05))
    ]
    return Study(
        script="spoken_vowels",
        title="Speakers under noise and other microphones",
        make_network=SpeakerCNN,
        layers=["hidden", "block1", "block2"],
        inputs=inputs,
        targets=speakers[training],
        metric="accuracy",
        validation=[batch for batches in validation for batch in batches],
        clean=test(lambda cepstra: cepstra),
        shifts={
            "noise 15 dB": test(noise(15, white)),
            "noise 10 dB": test(noise(10, white)),
            # A filter with one pole, as of a muffled microphone.
            "muffled": test(lambda cepstra: cepstra + 0.6**COEFFICIENTS / COEFFICIENTS),
            "telephone -10 dB": test(microphone(torch.where(is_in_telephone, 0.0, -10.0))),
            "telephone -20 dB": test(microphone(torch.where(is_in_telephone, 0.0, -20.0))),
        },
        repairs={"mean of training": average_like(inputs)},
        epochs=60,
        batch=30,
    )


if __name__ == "__main__":
    run(build, __doc__)
