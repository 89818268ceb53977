"""The named data sets: facts only. ``sources`` knows how to get them."""

from dataclasses import dataclass, replace

from bayesify.errors import DataError, suggest

UCI = "CC BY 4.0"
OPENML = "public (OpenML)"
CITE = "see the data set's page"


@dataclass(frozen=True)
class Entry:
    """One named data set.

    Attributes:
        name: how users call it.
        rows: number of rows.
        features: number of columns besides the target.
        kind: "regression", "binary" or "multiclass".
        source: where it was published.
        licence: its licence, as far as known.
        bundled: scikit-learn's loader, for example ``load_iris``; empty where it is not bundled.
        files: paths under the local data folder; of two files the first trains and the second tests.
        columns: feature names of array files.
        target: target column of array files; of other files it is the last column.
        openml: OpenML's data set number, None where it cannot be downloaded.
        splits: own splits: "" (none), "standard", "gap", "files", or "first" (the first ``train_rows`` rows train).
        train_rows: see ``splits``.
        fingerprint: of the rows in their published order (``sources.fingerprint``); own splits are used on downloaded
            rows only if it matches.
        leaking: columns that give the target away and are not used as features.
        image_shape: (channels, height, width) where each row is an image; ``features`` are then pixels. ``files`` are
            idx files: images, labels, images, labels.
        labels: names of the classes of images, by label.
        system: a folder beside the local data folder in which an operating system's package puts ``files``.
    """

    name: str
    rows: int
    features: int
    kind: str
    source: str
    licence: str
    bundled: str = ""
    files: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    target: str = ""
    openml: int | None = None
    splits: str = ""
    train_rows: int = 0
    fingerprint: str = ""
    leaking: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] | None = None
    labels: tuple[str, ...] = ()
    system: str = ""


def canonical(name: str) -> str:
    """``Wine_Red`` → ``wine-red``."""
    return name.strip().lower().replace("_", "-")


def entry(name: str) -> Entry:
    """The data set of that name; case, hyphens and underscores do not matter.

    Raises:
        DataError: there is none.
    """
    found = CATALOGUE.get(canonical(name))
    if found is None:
        raise DataError(f"There is no data set {name!r}. {suggest(name, CATALOGUE)}")
    return found


def _bundled(name: str, rows: int, features: int, kind: str, loader: str, source: str) -> Entry:
    return Entry(name, rows, features, kind, source, "as distributed with scikit-learn (BSD)", bundled=loader)


def _uci(
    name: str,
    rows: int,
    source: str,
    columns: str,
    target: str,
    fingerprint: str,
    openml: int | None = None,
    splits: str = "standard",
    licence: str = UCI,
) -> Entry:
    names = tuple(columns.split())
    return Entry(
        name=name,
        rows=rows,
        features=len(names),
        kind="regression",
        source=source,
        licence=licence,
        files=(f"uci_regression/{name}.npz",),
        columns=names,
        target=target,
        openml=openml,
        splits=splits,
        fingerprint=fingerprint,
    )


def _openml(name: str, rows: int, features: int, kind: str, number: int, file: str = "") -> Entry:
    files = (f"uci_classification/{file or name}.csv.gz",)
    return Entry(name, rows, features, kind, f"OpenML {number}", OPENML, files=files, openml=number)


def _gap(base: Entry) -> Entry:
    """The same rows; each split tests on the middle third of one feature (Foong et al., 2019)."""
    return replace(base, name=f"{base.name}-gap", splits="gap")


def _images(
    name: str, source: str, licence: str, labels: str, fingerprint: str, openml: int | None = None, system: str = ""
) -> Entry:
    """28 × 28 grey images; with a number at OpenML 60,000 train and 10,000 test, else 10,000 have no splits."""
    parts = ("train", "t10k") if openml else ("t10k",)
    return Entry(
        name=name,
        rows=70_000 if openml else 10_000,
        features=28 * 28,
        kind="multiclass",
        source=source,
        licence=licence,
        files=tuple(f"{name}/{part}-{what}-ubyte.gz" for part in parts for what in ("images-idx3", "labels-idx1")),
        openml=openml,
        splits="first" if openml else "",
        train_rows=60_000 if openml else 0,
        fingerprint=fingerprint,
        image_shape=(1, 28, 28),
        labels=tuple(labels.split()),
        system=system,
    )


_WINE_COLUMNS = (
    "fixed_acidity volatile_acidity citric_acid residual_sugar chlorides free_sulfur_dioxide total_sulfur_dioxide "
    "density pH sulphates alcohol"
)

_STANDARD = (
    _uci(
        "boston",
        506,
        "Harrison and Rubinfeld, 1978 (column B is a racial proxy: for comparison with published tables only)",
        "CRIM ZN INDUS CHAS NOX RM AGE DIS RAD TAX PTRATIO B LSTAT",
        "MEDV",
        "e74c9723472b36e6",
        licence=CITE,
    ),
    _uci(
        "concrete",
        1030,
        "UCI 165",
        "cement slag fly_ash water superplasticizer coarse_aggregate fine_aggregate age",
        "strength",
        "451793d9070dce7f",
        46917,
    ),
    _uci(
        "energy",
        768,
        "UCI 242 (heating load)",
        "relative_compactness surface_area wall_area roof_area overall_height orientation glazing_area "
        "glazing_area_distribution",
        "heating_load",
        "1ba0d2a3a0841e17",
        44960,
    ),
    _uci(
        "kin8nm",
        8192,
        "DELVE",
        "theta1 theta2 theta3 theta4 theta5 theta6 theta7 theta8",
        "y",
        "8722b14d4dddbcda",
        189,
        licence=OPENML,
    ),
    _uci(
        "naval",
        11934,
        "UCI 316 (compressor decay)",
        "lp v GTT GTn GGn Ts Tp T48 T1 T2 P48 P1 P2 Pexh TIC mf",
        "kMc",
        "bd9b2246e92915f8",
        44969,
    ),
    _uci("power", 9568, "UCI 294", "AT V AP RH", "PE", "e5da2f8456f4828e"),
    _uci("protein", 45730, "UCI 265", "F1 F2 F3 F4 F5 F6 F7 F8 F9", "RMSD", "cb92ce4b88dd46fe", 46949),
    _uci("wine-red", 1599, "UCI 186", _WINE_COLUMNS, "quality", "1b298f1bafe9d496", 44972),
    _uci(
        "yacht",
        308,
        "UCI 243",
        "longitudinal_position prismatic_coefficient length_displacement_ratio beam_draught_ratio length_beam_ratio "
        "froude_number",
        "residuary_resistance",
        "9ffbda4c3e367cd5",
    ),
)

_ENTRIES = (
    _bundled("breast_cancer", 569, 30, "binary", "load_breast_cancer", "UCI 17"),
    _bundled("diabetes", 442, 10, "regression", "load_diabetes", "Efron et al., 2004"),
    _bundled("digits", 1797, 64, "multiclass", "load_digits", "UCI 80 (test part)"),
    _bundled("iris", 150, 4, "multiclass", "load_iris", "UCI 53"),
    _bundled("wine", 178, 13, "multiclass", "load_wine", "UCI 109"),
    *_STANDARD,
    *(_gap(base) for base in _STANDARD),
    _uci(
        "airfoil",
        1503,
        "UCI 291",
        "frequency angle_of_attack chord_length free_stream_velocity displacement_thickness",
        "sound_pressure",
        "f128593cbf4e3040",
        46904,
        splits="",
    ),
    _uci(
        "bikesharing",
        17379,
        "UCI 275",
        "season yr mnth hr holiday weekday workingday weathersit temp atemp hum windspeed",
        "cnt",
        "4846ce8fc96bf10b",
        splits="",
    ),
    _openml("banknote-authentication", 1372, 4, "binary", 1462),
    _openml("breast-w", 699, 9, "binary", 15),
    _openml("credit-g", 1000, 20, "binary", 31),
    _openml("diabetes-pima", 768, 8, "binary", 37, file="diabetes"),
    _openml("glass", 214, 9, "multiclass", 41),
    _openml("ionosphere", 351, 34, "binary", 59),
    _openml("letter", 20000, 16, "multiclass", 6),
    _openml("satimage", 6430, 36, "multiclass", 182),
    _openml("segment", 2310, 19, "multiclass", 36),
    _openml("sonar", 208, 60, "binary", 40),
    _openml("spambase", 4601, 57, "binary", 44),
    _openml("vehicle", 846, 18, "multiclass", 54),
    _openml("waveform-5000", 5000, 40, "multiclass", 60),
    _openml("wdbc", 569, 30, "binary", 1510),
    Entry(
        name="adult",
        rows=48842,
        features=14,
        kind="binary",
        source="UCI 2",
        licence=UCI,
        files=("adult/train.csv.gz", "adult/test.csv.gz"),
        openml=1590,
        splits="files",
        train_rows=32561,
        fingerprint="3da26cda0904530a",
    ),
    Entry(
        name="arcene",
        rows=200,
        features=10000,
        kind="binary",
        source="UCI 167",
        licence=UCI,
        files=("nips2003/arcene.npz",),
        target="label",
        splits="first",
        train_rows=100,
    ),
    Entry(
        name="bike-sharing-hour",
        rows=17379,
        features=16,
        kind="regression",
        source="UCI 275 (2011 trains, 2012 tests)",
        licence=UCI,
        files=("streams/bike_sharing_hour.csv.gz",),
        splits="first",
        train_rows=8645,
        leaking=("casual", "registered"),
    ),
    Entry(
        name="covertype-15k",
        rows=15120,
        features=54,
        kind="multiclass",
        source="UCI 31 (balanced sample)",
        licence=UCI,
        files=("covertype_15k/covertype.npz",),
        target="cover_type",
    ),
    Entry(
        name="electricity",
        rows=45312,
        features=8,
        kind="binary",
        source="OpenML 151 (in time order: split by date)",
        licence=OPENML,
        files=("streams/electricity.csv.gz",),
        openml=151,
    ),
    Entry(
        name="madelon",
        rows=2600,
        features=500,
        kind="binary",
        source="UCI 171",
        licence=UCI,
        files=("nips2003/madelon.npz",),
        target="label",
        openml=1485,
        splits="first",
        train_rows=2000,
        fingerprint="7bd7f43182bbdd60",
    ),
    Entry(
        name="mushroom",
        rows=8124,
        features=22,
        kind="binary",
        source="UCI 73",
        licence=UCI,
        files=("bandits/mushroom.csv.gz",),
        openml=24,
    ),
    Entry(
        name="shuttle",
        rows=58000,
        features=9,
        kind="multiclass",
        source="UCI 148",
        licence=UCI,
        files=("bandits/shuttle.csv.gz",),
        openml=40685,
        splits="first",
        train_rows=43500,
        fingerprint="c6d82d6a30014674",
    ),
    _images("mnist", "LeCun et al., 1998", "CC BY-SA 3.0", "0 1 2 3 4 5 6 7 8 9", "c2069063c1105f2b", 554),
    _images(
        "fashion-mnist",
        "Xiao et al., 2017",
        "MIT",
        "T-shirt trouser pullover dress coat sandal shirt sneaker bag boot",
        "2cbc59191665e1ba",
        40996,
        system="/usr/share/datasets",  # Debian's package dataset-fashion-mnist
    ),
    _images("notmnist", "Y. Bulatov, 2011 (letters A to J)", CITE, "A B C D E F G H I J", "dd6b5310297fe4c7"),
    Entry(
        name="wine-white",
        rows=4898,
        features=11,
        kind="regression",
        source="UCI 186",
        licence=UCI,
        files=("wine_shift/winequality-white.csv.gz",),
        columns=tuple(_WINE_COLUMNS.split()),
        target="quality",
    ),
    Entry(
        name="wine-shift",
        rows=6497,
        features=11,
        kind="regression",
        source="UCI 186 (red wine trains, white wine tests)",
        licence=UCI,
        files=("wine_shift/winequality-red.csv.gz", "wine_shift/winequality-white.csv.gz"),
        splits="files",
        train_rows=1599,
    ),
)

CATALOGUE: dict[str, Entry] = {canonical(item.name): item for item in _ENTRIES}
