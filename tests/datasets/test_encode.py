import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesify.datasets.columns import plain_frame
from bayesify.datasets.encode import TargetScaler, fit_encoder, fit_target_scaler
from bayesify.errors import DataError

XSS = "<script>alert(1)</script>"


def plain(**columns) -> pd.DataFrame:
    return plain_frame(pd.DataFrame(columns), "data")[0]


def mixed(num_rows: int, seed: int = 0) -> pd.DataFrame:
    """Every kind of column, each with missing values, three hundred distinct texts."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "size": rng.normal(5, 3, num_rows),
            "count": rng.integers(0, 9, num_rows),
            "flag": rng.random(num_rows) < 0.3,
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**8, num_rows), unit="s"),
            "colour": rng.choice(["red", "green", "blue"], num_rows),
            XSS: [f"town {value} by the sea" for value in rng.integers(0, 300, num_rows)],
        }
    )
    for name in ("size", "day", "colour", XSS):
        frame.loc[rng.random(num_rows) < 0.1, name] = None
    return plain_frame(frame, "data")[0]


def encode(frame: pd.DataFrame, num_train: int | None = None) -> np.ndarray:
    return fit_encoder(frame, np.arange(num_train or len(frame))).transform(frame)


def test_all_kinds_of_columns() -> None:
    frame = mixed(400)
    encoder = fit_encoder(frame, np.arange(300))
    matrix = encoder.transform(frame)
    assert matrix.dtype == np.float32
    assert matrix.shape == (400, len(encoder.feature_names))
    assert np.isfinite(matrix).all()
    assert np.abs(matrix).max() <= 30
    names = set(encoder.feature_names)
    assert {"size", "flag", "day: year", f"{XSS} ~29", "size is missing", "colour=red", "colour is missing"} <= names
    assert "count is missing" not in names
    at = encoder.feature_names.index
    assert (matrix[:, at("colour=red")] == (frame["colour"] == "red")).all()
    assert (matrix[:, at("size is missing")] == frame["size"].isna()).all()
    assert (matrix[frame["size"].isna(), at("size")] == 0).all()


def test_numbers_follow_the_published_formula() -> None:
    x = np.random.default_rng(0).normal(7, 20, 101)
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75])
    z = (x - middle) / (high - low)
    np.testing.assert_allclose(encode(plain(x=x))[:, 0], z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unit", [1e-250, 1e-40, 1e-18, 1.0, 1e25, 1e250])
def test_the_unit_of_a_column_does_not_matter(unit: float) -> None:
    x = np.random.default_rng(0).normal(0, 1, 101)
    np.testing.assert_allclose(encode(plain(x=x * unit)), encode(plain(x=x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outlier", [1e30, 1e300, -1.7e308])
def test_an_outlier_leaves_the_other_rows_alone(outlier: float) -> None:
    x = np.random.default_rng(0).normal(0, 1, 1001)
    spoiled = np.append(x, outlier)
    matrix = encode(plain(x=spoiled))
    assert matrix[-1, 0] == pytest.approx(3 * np.sign(outlier))
    np.testing.assert_allclose(matrix[:-1], encode(plain(x=x)), atol=0.01)


def test_only_training_rows_matter() -> None:
    frame = mixed(300)
    changed = frame.copy()
    changed.iloc[200:] = mixed(300, seed=9).iloc[200:].to_numpy()
    changed = changed.astype(frame.dtypes)
    np.testing.assert_array_equal(encode(frame, 200)[:200], encode(changed, 200)[:200])


@settings(max_examples=8)
@given(st.integers(0, 1000), st.integers(12, 40))
def test_only_training_rows_matter_for_any_test_rows(seed: int, num_rows: int) -> None:
    train = mixed(50)
    for test in (mixed(num_rows, seed), mixed(num_rows, seed + 1)):
        both = pd.concat([train, test], ignore_index=True)
        encoder = fit_encoder(both, np.arange(50))
        np.testing.assert_array_equal(encoder.transform(train), encode(train))
        assert np.isfinite(encoder.transform(test)).all()


@settings(max_examples=12)
@given(st.permutations(range(60)))
def test_row_order_does_not_matter(order: list[int]) -> None:
    frame = mixed(60)
    shuffled = frame.iloc[order].reset_index(drop=True)
    np.testing.assert_allclose(encode(shuffled), encode(frame)[order], rtol=1e-5, atol=1e-5)


def test_each_row_is_encoded_by_itself() -> None:
    frame = mixed(200)
    encoder = fit_encoder(frame, np.arange(150))
    one_by_one = [encoder.transform(frame.iloc[[row]]) for row in range(140, 160)]
    np.testing.assert_allclose(np.concatenate(one_by_one), encoder.transform(frame)[140:160], rtol=1e-5, atol=1e-6)


def test_same_seed_same_encoding() -> None:
    frame = mixed(300)
    first, second = (fit_encoder(frame, np.arange(300), seed=3).transform(frame) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_unseen_levels_and_newly_missing_values() -> None:
    frame = plain(
        few=["a", "b"] * 30 + ["never seen", None],
        many=[f"{number % 7} {'apple tree' if number < 30 else 'motorcycle'} {number}" for number in range(60)]
        + ["red motorcycles", None],
        number=[*np.linspace(0, 1, 60), 99.0, None],
    )
    encoder = fit_encoder(frame, np.arange(60))
    matrix = encoder.transform(frame)
    assert np.isfinite(matrix).all()
    at = encoder.feature_names.index
    assert (matrix[60:, [at("few=a"), at("few=b")]] == 0).all()
    texts = matrix[:, [at(f"many ~{number}") for number in range(30)]]
    assert (texts[61] == 0).all()
    nearest = np.linalg.norm(texts[:60] - texts[60], axis=1).argmin()
    assert nearest >= 30  # an unseen text lies among the ones it looks like


def test_ten_thousand_levels_have_bounded_width() -> None:
    levels = [f"product-{number:05d}" for number in range(10_000)]
    encoder = fit_encoder(plain(product=levels * 2), np.arange(15_000))
    matrix = encoder.transform(plain(product=[*levels, "product-x", None]))
    assert matrix.shape == (10_002, 30)
    assert np.isfinite(matrix).all()
    assert len(np.unique(matrix.round(6), axis=0)) > 9_000  # levels stay apart


@pytest.mark.parametrize("alphabet", ["ab", "01", "Aa", "-_"])
def test_texts_of_few_characters(alphabet: str) -> None:
    words = [alphabet[0] * (n % 9 + 1) + alphabet[1] * (n // 9 + 1) for n in range(54)]
    assert np.isfinite(encode(plain(words=words))).all()


def test_column_without_a_training_value_gets_no_feature() -> None:
    frame = plain(x=[1.0, 2.0, 3.0], late=[None, None, 5.0], word=[None, None, "a"])
    encoder = fit_encoder(frame, np.arange(2))
    assert encoder.feature_names == ("x",)
    assert encoder.transform(frame).shape == (3, 1)


def test_constant_in_training_stays_zero_in_test() -> None:
    matrix = encode(plain(x=[4.0] * 5 + [9.0], day=pd.to_datetime(["2020-01-01"] * 5 + ["2021-07-07"])), 5)
    assert (matrix == 0).all()


def test_missing_or_changed_columns_are_refused() -> None:
    encoder = fit_encoder(plain(size=[1.0, 2.0], word=["a", "b"]), np.arange(2))
    with pytest.raises(DataError, match="no column 'size'"):
        encoder.transform(plain(word=["a"]))
    with pytest.raises(DataError, match="held numbers now holds something else"):
        encoder.transform(plain(size=["big"], word=["a"]))


def test_target_scaler() -> None:
    y = np.array([1.0, 2.0, 6.0])
    scaler = fit_target_scaler(y)
    assert scaler == TargetScaler(loc=3.0, scale=float(np.std(y)))
    assert scaler.transform(y).dtype == np.float32
    np.testing.assert_allclose(scaler.inverse(scaler.transform(y)), y, rtol=1e-6)
    for constant in (np.full(5, 2.5), np.zeros(5), np.array([1e9, 1e9 + 1e-7])):
        with pytest.raises(DataError, match="is constant"):
            fit_target_scaler(constant)
