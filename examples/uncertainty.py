"""How well ‖y1 - y0‖ tells shifted inputs and errors, beside what others would use: entropy, dropout, an ensemble."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from it3 import IT3Engine
from it3.evaluation.selective_risk import selective_risk
from sklearn.metrics import roc_auc_score
from study import Batches, Study, TensorFunction, first_layer_in
from torch import Tensor, nn

DRAWS, RATE = 20, 0.2  # of dropout on a study's first layer


def measures(study: Study, engines: Sequence[IT3Engine], errors_of: TensorFunction) -> list[dict[str, Any]]:
    """Return a row for each kind of uncertainty: the means over networks.

    Parameters
    ----------
    study
        Whose batches without and with the shift are told apart.
    engines
        Of several seeds; together they are the ensemble.
    errors_of
        Gives each sample's error, (B,), for a prediction and targets: 0 or 1 for classes.
    """

    def numbers(prediction: Tensor) -> Tensor:
        return prediction.softmax(1) if study.is_of_classes else prediction

    kinds: dict[str, Callable[[IT3Engine, Any], Tensor]] = {"‖y1 - y0‖": lambda engine, x: engine.uncertainty(x)}
    if study.is_of_classes:
        kinds["the same of logits"] = between_logits
        kinds["entropy"] = lambda engine, x: entropy(numbers(predicted(engine, x)))
    kinds["dropout"] = lambda engine, x: spread(
        [numbers(p) for p in with_dropout(engine, first_layer_in(study, engine.model), x)]
    )
    if len(engines) > 1:
        kinds["ensemble"] = lambda _, x: spread([numbers(predicted(engine, x)) for engine in engines])
    rows = []
    for name, of in kinds.items():
        found = [of_network(engine, of, study.clean, study.test, errors_of) for engine in engines]
        rows.append({"uncertainty": name} | {key: sum(each[key] for each in found) / len(found) for key in found[0]})
    return rows


def of_network(
    engine: IT3Engine,
    of: Callable[[IT3Engine, Any], Tensor],
    clean: Batches,
    shifted: Batches,
    errors_of: TensorFunction,
) -> dict[str, float]:
    """Return how well one kind of uncertainty of one network tells the shift, and its errors under the shift."""
    of_clean, of_shifted = (torch.cat([of(engine, x) for x, _ in batches]) for batches in (clean, shifted))
    errors = torch.cat([errors_of(predicted(engine, x), y) for x, y in shifted])
    is_shifted = torch.cat([torch.zeros(len(of_clean)), torch.ones(len(of_shifted))])
    is_error = (errors > errors.median()) if len(errors.unique()) > 2 else errors.bool()
    has_both = 0 < int(is_error.sum()) < len(is_error)
    return {
        "auroc_shift": float(roc_auc_score(is_shifted, torch.cat([of_clean, of_shifted]))),
        "auroc_error": float(roc_auc_score(is_error, of_shifted)) if has_both else float("nan"),
        "area_risk_coverage": float(selective_risk(of_shifted, errors).mean()),
        "risk": float(errors.mean()),
    }


@torch.no_grad()
def predicted(engine: IT3Engine, inputs: Any) -> Tensor:
    """Return y0 without adapting."""
    return engine.adapt(inputs, num_steps=0, threshold=None, prediction="first").prediction


def between_logits(engine: IT3Engine, inputs: Any) -> Tensor:
    """Return ‖y1 - y0‖ of logits as they are, (B, C, ...), over classes and positions: (B,)."""
    unadapted = engine.adapt(inputs, num_steps=0, threshold=None)
    distances: Tensor = (unadapted.second - unadapted.first).flatten(1).norm(dim=1)
    return distances


def entropy(probabilities: Tensor) -> Tensor:
    """Return the Shannon entropy of class probabilities, (B, C, ...), the mean over positions: (B,)."""
    return -torch.xlogy(probabilities, probabilities).sum(1).reshape(len(probabilities), -1).mean(1)


def spread(predictions: list[Tensor]) -> Tensor:
    """Return the standard deviation of several predictions, the mean over what they predict: (B,)."""
    return torch.stack(predictions).std(0).reshape(len(predictions[0]), -1).mean(1)


def with_dropout(engine: IT3Engine, layer: str, inputs: Any) -> list[Tensor]:
    """Return predictions with dropout on a layer's output (Monte Carlo dropout: Gal, Ghahramani, ICML 2016)."""
    torch.manual_seed(0)
    with dropped(engine.model.get_submodule(layer)), torch.no_grad():
        return [predicted(engine, inputs) for _ in range(DRAWS)]


@contextmanager
def dropped(layer: nn.Module) -> Iterator[None]:
    """Let dropout follow a layer."""
    handle = layer.register_forward_hook(lambda _module, _given, output: F.dropout(output, RATE))
    try:
        yield
    finally:
        handle.remove()
