from dassl.data.datasets.base_dataset import DatasetBase, Datum, check_classnames, fewshot_hash
from dassl.data.datasets.build import DATASET_REGISTRY, build_dataset

__all__ = ["DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset", "check_classnames", "fewshot_hash"]
