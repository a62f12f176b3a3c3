"""The estimators of it3.frameworks.sklearn, by scikit-learn's own checks, and beside the engine called by hand."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from it3 import IT3Engine
from it3.frameworks.sklearn import IT3Classifier, IT3Regressor
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.impute import SimpleImputer
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

QUICK = {"epochs": 20, "learning_rate": 1e-2}
STRONG = {"num_steps": 4, "lr": 1e-2}
"""Adaptation that shows in each prediction."""


@parametrize_with_checks([IT3Classifier(epochs=10, learning_rate=2e-2), IT3Regressor(epochs=10, learning_rate=2e-2)])
def test_checks_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def flowers() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(x), load_iris().target_names[y]


@pytest.fixture(scope="module")
def patients() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_diabetes(return_X_y=True)
    return x[:120] * 20, y[:120]


@pytest.fixture(scope="module")
def classifier(flowers: tuple) -> IT3Classifier:
    return IT3Classifier(**QUICK, random_state=0).fit(*flowers)


def probabilities(engine: IT3Engine, x: np.ndarray) -> np.ndarray:
    """Return what the engine gives for each row alone, called by hand."""
    alone = [engine.adapt(torch.tensor(row[None]), **STRONG).prediction for row in x]
    return torch.cat(alone).softmax(1).numpy()


def test_each_row_adapts_alone(classifier: IT3Classifier, flowers: tuple) -> None:
    x, y = flowers
    adapting = pickle.loads(pickle.dumps(classifier)).set_params(**STRONG)
    expected = probabilities(classifier.engine_, x)
    np.testing.assert_allclose(adapting.predict_proba(x), expected, atol=1e-9)
    assert np.abs(expected - classifier.set_params(num_steps=0).predict_proba(x)).max() > 1e-3
    assert list(adapting.predict(x)) == [np.unique(y)[place] for place in expected.argmax(1)]


def test_no_steps_are_the_network_alone(classifier: IT3Classifier, flowers: tuple) -> None:
    x = torch.tensor(flowers[0])
    plain = classifier.engine_.model(x).softmax(1).detach().numpy()
    unadapted = classifier.set_params(num_steps=0)
    np.testing.assert_allclose(unadapted.predict_proba(flowers[0]), plain, atol=1e-12)
    assert (unadapted.predict(flowers[0]) == flowers[1]).mean() > 0.95


def test_rows_adapt_together_on_request(classifier: IT3Classifier, flowers: tuple) -> None:
    x = flowers[0][95:105]
    together = pickle.loads(pickle.dumps(classifier)).set_params(**STRONG, per_sample=False)
    by_hand = classifier.engine_.adapt(torch.tensor(x), **STRONG).prediction.softmax(1)
    np.testing.assert_allclose(together.predict_proba(x), by_hand.numpy(), atol=1e-12)
    assert np.abs(together.predict_proba(x)[:1] - together.predict_proba(x[:1])).max() > 1e-6


def test_trains_as_a_loop_by_hand(patients: tuple) -> None:
    x, y = patients
    scaled = ((y - y.mean()) / y.std())[:, None]
    seed = np.random.RandomState(3).randint(np.iinfo(np.int32).max)
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(10, 7), torch.nn.ReLU(), torch.nn.Linear(7, 1)]
    engine = IT3Engine(torch.nn.Sequential(*layers).double(), "0")
    optimizer = torch.optim.Adam(engine.parameters(), lr=1e-2)
    rows = TensorDataset(torch.tensor(x), torch.tensor(scaled))
    loader = DataLoader(rows, 50, shuffle=True, generator=torch.Generator().manual_seed(seed))
    for _ in range(3):
        for inputs, target in loader:
            prediction, loss_ttt = engine(inputs, target=target)
            optimizer.zero_grad()
            (F.mse_loss(prediction, target) + loss_ttt).backward()
            optimizer.step()
    regressor = IT3Regressor((7,), epochs=3, batch_size=50, learning_rate=1e-2, random_state=3, num_steps=0)
    by_hand = engine.model(torch.tensor(x)).detach().numpy()[:, 0] * y.std() + y.mean()
    np.testing.assert_allclose(regressor.fit(x, y).predict(x), by_hand, rtol=1e-9)
    assert regressor.engine_.is_trained
    assert len(regressor.history_.rows) == 3


def test_the_scale_of_targets_does_not_matter(patients: tuple) -> None:
    x, y = patients
    regressor = IT3Regressor(epochs=2, random_state=0, lr=1e-3)
    outside = TransformedTargetRegressor(clone(regressor), transformer=StandardScaler()).fit(x, y)
    np.testing.assert_allclose(regressor.fit(x, y).predict(x), outside.predict(x), rtol=1e-9)


def test_several_outputs_keep_their_shape(patients: tuple) -> None:
    x, y = patients
    both = IT3Regressor(epochs=2, random_state=0).fit(x, np.stack([y, -3 * y], 1))
    assert both.predict(x[:5]).shape == (5, 2)
    assert IT3Regressor(epochs=1).fit(x, y[:, None]).predict(x[:1]).shape == (1, 1)


def test_in_a_pipeline_with_a_search(flowers: tuple) -> None:
    x = pd.DataFrame(flowers[0], columns=["a", "b", "c", "d"])
    x.iloc[::7, 1] = np.nan
    pipeline = make_pipeline(SimpleImputer().set_output(transform="pandas"), IT3Classifier(epochs=3, random_state=0))
    grid = {"it3classifier__num_steps": [0, 2], "it3classifier__options": [None, {"optimizer_name": "sgd"}]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(x, flowers[1])
    best = search.best_estimator_
    assert list(best[-1].feature_names_in_) == ["a", "b", "c", "d"]
    assert get_scorer("accuracy")(best, x, flowers[1]) == pytest.approx(search.score(x, flowers[1]))
    assert best.predict(x.iloc[:1]).shape == (1,)
    scores = cross_val_score(best, x, flowers[1], cv=2, scoring="neg_log_loss", error_score="raise")
    assert np.isfinite(scores).all()


def test_parameters_as_searches_draw_them(patients: tuple) -> None:
    x, y = patients
    plain = {"epochs": 2, "batch_size": 30, "num_steps": 2, "lr": 1e-3, "per_sample": True, "learning_rate": 1e-2}
    drawn = {name: np.array(value)[()] for name, value in plain.items()} | {"hidden_layer_sizes": (np.int64(5),)}
    expected = IT3Regressor((5,), random_state=0, **plain).fit(x, y).predict(x)
    assert np.array_equal(IT3Regressor(random_state=0, **drawn).fit(x, y).predict(x), expected)


def test_random_states(patients: tuple) -> None:
    x, y = patients
    np.random.seed(5)  # noqa: NPY002  (which scikit-learn draws from)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = IT3Regressor(epochs=1).fit(x, y).predict(x)
    assert torch.equal(torch.get_rng_state(), before)
    second = IT3Regressor(epochs=1).fit(x, y).predict(x)
    assert not np.array_equal(first, second)  # None draws from NumPy's generator, which goes on
    np.random.seed(5)  # noqa: NPY002  (which scikit-learn draws from)
    assert np.array_equal(first, IT3Regressor(epochs=1).fit(x, y).predict(x))


def test_generators_of_gpus_are_left_alone(patients: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)  # which waits for a GPU's first use
    torch.manual_seed(3)
    IT3Regressor(epochs=1).fit(*patients).predict(patients[0])
    assert seeded == [3]


def test_predicting_changes_no_weights(classifier: IT3Classifier, flowers: tuple) -> None:
    adapting = pickle.loads(pickle.dumps(classifier)).set_params(**STRONG, options={"restore_probability": 0.5})
    before = {name: value.clone() for name, value in adapting.engine_.state_dict().items()}
    first = adapting.predict_proba(flowers[0])
    assert np.array_equal(first, adapting.predict_proba(flowers[0]))
    after = adapting.engine_.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert np.abs(first - adapting.set_params(num_steps=0).predict_proba(flowers[0])).max() > 1e-3


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"epochs": 0}, "epochs must be a whole number, 1 or more"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"hidden_layer_sizes": ()}, "hidden_layer_sizes must be a tuple or list"),
        ({"hidden_layer_sizes": 5}, "hidden_layer_sizes must be a tuple or list"),
        ({"hidden_layer_sizes": (5, 0)}, "each of hidden_layer_sizes"),
        ({"learning_rate": "fast"}, "learning_rate must be a number above 0"),
        ({"anchor": "sefl"}, "anchor"),
        ({"options": {"lr": 1.0}}, "options has 'lr', which is a parameter of the estimator itself"),
        ({"options": {"online": True}, "per_sample": False}, "predict\\(\\) may not change an estimator"),
    ],
)
def test_wrong_parameters(parameters: dict, said: str, patients: tuple) -> None:
    with pytest.raises(ValueError, match=said):
        IT3Regressor(**parameters).fit(*patients)


def test_options_that_would_keep_weights(patients: tuple) -> None:
    regressor = IT3Regressor(epochs=1, per_sample=False).fit(*patients).set_params(options={"copy_model": False})
    with pytest.raises(ValueError, match="leave online and copy_model out"):
        regressor.predict(patients[0])


def test_one_class_only(patients: tuple) -> None:
    with pytest.raises(ValueError, match="y has one class only, 'a'"):
        IT3Classifier().fit(patients[0], ["a"] * 120)
