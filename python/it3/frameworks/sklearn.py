"""Estimators of scikit-learn for tables, which adapt to the rows that they predict."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from it3.engine import IT3Engine
from it3.options import Options
from it3.support.checks import check_count
from it3.support.kept import KeptRandomState

__all__ = ["IT3Classifier", "IT3Regressor"]


class _IT3Estimator(BaseEstimator):
    """A multilayer perceptron in double precision, in an engine that feeds back at its first layer."""

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        *,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        random_state: int | np.random.RandomState | None = None,
        num_steps: int = 3,
        lr: float = 1e-5,
        anchor: str = "self",
        per_sample: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.num_steps = num_steps
        self.lr = lr
        self.anchor = anchor
        self.per_sample = per_sample
        self.options = options

    def _fit(self, x: NDArray[np.float64], target: Tensor, outputs: int, distance: str, criterion: Any) -> None:
        """Train a new network, and leave torch's random generators as they were."""
        self._check_parameters()
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with KeptRandomState():
            torch.default_generator.manual_seed(seed)  # and no GPU's, which would be seeded at its first use
            self.engine_ = IT3Engine(self._network(x.shape[1], outputs), "0", distance_fn=distance)
            rows = TensorDataset(torch.tensor(x), target)
            generator = torch.Generator().manual_seed(seed)
            loader = DataLoader(rows, int(self.batch_size), shuffle=True, generator=generator)
            rate = float(self.learning_rate)
            self.history_ = self.engine_.fit(
                loader,
                criterion,
                epochs=_plain(self.epochs),
                optimizer=lambda parameters: torch.optim.Adam(parameters, lr=rate),
            )
        self.engine_.eval()

    def _check_parameters(self) -> None:
        """Raise ValueError or TypeError for parameters that are not accepted, which scikit-learn asks of fit()."""
        check_count("epochs", _plain(self.epochs), 1)
        check_count("batch_size", _plain(self.batch_size), 1)
        if not isinstance(self.hidden_layer_sizes, Sequence) or not self.hidden_layer_sizes:
            raise ValueError(
                "hidden_layer_sizes must be a tuple or list of one width or more, as predictions are fed back at the "
                f"first hidden layer, not {self.hidden_layer_sizes!r}"
            )
        for size in self.hidden_layer_sizes:
            check_count("each of hidden_layer_sizes", _plain(size), 1)
        if not isinstance(self.learning_rate, Real) or not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be a number above 0, not {self.learning_rate!r}")
        self._adaptation()

    def _network(self, columns: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for size in self.hidden_layer_sizes:
            layers += [nn.Linear(columns, size), nn.ReLU()]
            columns = size
        return nn.Sequential(*layers, nn.Linear(columns, outputs)).double()

    def _adaptation(self) -> dict[str, Any]:
        """Return the options with which rows are predicted."""
        named = {name: _plain(getattr(self, name)) for name in ("num_steps", "lr", "anchor", "per_sample")}
        twice = sorted(named.keys() & (self.options or {}).keys())
        if twice:
            raise ValueError(f"options has {', '.join(map(repr, twice))}, which is a parameter of the estimator itself")
        options = dict(Options(**named, **(self.options or {})))
        if options.get("copy_model") is False:
            raise ValueError(
                "options keep adapted weights from call to call, but predict() may not change an estimator; leave "
                "online and copy_model out"
            )
        return options

    def _predict(self, rows: ArrayLike) -> Tensor:
        """Adapt to rows, and return the network's predictions, (rows, outputs)."""
        check_is_fitted(self)
        x = validate_data(self, rows, reset=False, dtype=np.float64)
        with KeptRandomState():  # of options that draw
            torch.default_generator.manual_seed(0)
            return self.engine_.adapt(torch.tensor(x), **self._adaptation()).prediction


def _plain(value: Any) -> Any:
    """Return a number of NumPy's, as searches draw them, as one of Python's."""
    return value.item() if isinstance(value, np.generic) else value


class IT3Classifier(ClassifierMixin, _IT3Estimator):
    """A classifier for tables that adapts to the rows that it predicts.

    A multilayer perceptron is trained with both terms of the method, and at each prediction takes ``num_steps`` steps
    of adaptation. Its weights are afterwards those of :meth:`fit`. Put a ``StandardScaler`` before it.

    Parameters
    ----------
    hidden_layer_sizes
        The widths of the hidden layers. Predictions are fed back at the output of the first.
    epochs, batch_size, learning_rate
        Of the training, which is by Adam.
    random_state
        Decides the first weights and the order of the rows, as everywhere in scikit-learn.
    num_steps, lr, anchor
        How to adapt, as in :class:`it3.Options`. No steps: the network predicts as it was trained.
    per_sample
        Whether each row adapts alone, so that its prediction does not depend on the others. False: all rows of a call
        adapt one set of weights, which is faster.
    options
        Further options of :class:`it3.Options`, by name. They apply to predictions, so that ``set_params`` changes
        them, and the four above, without another :meth:`fit`.

    Attributes
    ----------
    classes_
        The classes, in the order of the columns of :meth:`predict_proba`.
    engine_
        The trained :class:`it3.IT3Engine`.
    history_
        The training, a row an epoch: an :class:`it3.History`.
    n_features_in_, feature_names_in_
        The columns seen in :meth:`fit`; the names where they are given.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = make_pipeline(StandardScaler(), IT3Classifier(epochs=20, random_state=0)).fit(X, y)
    >>> classifier.predict_proba(X[:4]).shape
    (4, 3)
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on rows and their classes.

        Parameters
        ----------
        X
            Rows, (rows, columns), of finite numbers.
        y
            A class for each row: numbers or texts.

        Raises
        ------
        ValueError, TypeError
            For data or parameters that are not accepted, and for one class only.
        """
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        self.classes_ = encoder.classes_
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class only, '{self.classes_[0]}'; a classifier needs rows of two at least")
        self._fit(x, torch.tensor(encoder.transform(y)), len(self.classes_), "js", F.cross_entropy)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Adapt to rows, and return the probability of each class, (rows, classes)."""
        probabilities: NDArray[np.float64] = self._predict(X).softmax(1).numpy()
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Adapt to rows, and return the most probable class of each, (rows,)."""
        best = self._predict(X).argmax(1).numpy()
        classes: NDArray[Any] = self.classes_[best]
        return classes


class IT3Regressor(RegressorMixin, _IT3Estimator):
    """A regressor for tables that adapts to the rows that it predicts.

    Its parameters and attributes are those of :class:`IT3Classifier`, but that it has ``target_scaler_``, not
    ``classes_``. Targets may have any scale: the network learns them in units of their standard deviation from their
    mean, by this ``StandardScaler``.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> regressor = IT3Regressor(epochs=10, random_state=0).fit(X, y)
    >>> regressor.set_params(num_steps=0).predict(X[:4]).shape
    (4,)
    """

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn may ask of it: several numbers a row too."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train on rows and their numbers.

        Parameters
        ----------
        X
            Rows, (rows, columns), of finite numbers.
        y
            A number for each row, (rows,), or several, (rows, outputs).

        Raises
        ------
        ValueError, TypeError
            For data or parameters that are not accepted.
        """
        x, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        columns = np.asarray(y, np.float64).reshape(len(x), -1)
        self.target_scaler_ = StandardScaler().fit(columns)
        self._one_number = np.ndim(y) == 1
        target = torch.tensor(self.target_scaler_.transform(columns))
        self._fit(x, target, columns.shape[1], "mse", F.mse_loss)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Adapt to rows, and return their numbers, in the shape of those of :meth:`fit`."""
        scaled = self._predict(X).numpy()
        numbers: NDArray[np.float64] = self.target_scaler_.inverse_transform(scaled)
        return numbers[:, 0] if self._one_number else numbers
