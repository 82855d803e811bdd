from dassl.data.datasets.base_dataset import DatasetBase, Datum, check_classnames, fewshot_hash
from dassl.data.datasets.build import DATASET_REGISTRY, build_dataset
from dassl.data.datasets.table import Table, Without, class_sizes, one_per_class

__all__ = [
    "DATASET_REGISTRY",
    "DatasetBase",
    "Datum",
    "Table",
    "Without",
    "build_dataset",
    "check_classnames",
    "class_sizes",
    "fewshot_hash",
    "one_per_class",
]
