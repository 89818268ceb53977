"""Tables as users have them → tasks, splits and arrays; and data sets by name."""

from bayesify.datasets.encode import Encoder, TargetScaler, fit_encoder, fit_target_scaler
from bayesify.datasets.prepare import Prepared, prepare
from bayesify.datasets.registry import DatasetRow, list_datasets, load
from bayesify.datasets.shift import Shift
from bayesify.datasets.splits import Holdout, Split, make_splits, validation_split
from bayesify.datasets.table import read_table
from bayesify.datasets.task import Task, image_task, make_task

__all__ = [
    "DatasetRow",
    "Encoder",
    "Holdout",
    "Prepared",
    "Shift",
    "Split",
    "TargetScaler",
    "Task",
    "fit_encoder",
    "fit_target_scaler",
    "image_task",
    "list_datasets",
    "load",
    "make_splits",
    "make_task",
    "prepare",
    "read_table",
    "validation_split",
]
