"""Series data: reading, splitting, imposed missingness, scaling and batches.

Needs torch and numpy only, except that tables are parsed with polars, HDF5 with h5py.
"""

from nde.data.batch import Batch, collate
from nde.data.columns import Columns
from nde.data.errors import DataError, unknown_name
from nde.data.formats import FORMATS
from nde.data.long_table import read_long_csv
from nde.data.missing import DropProtocol, drop_observations
from nde.data.named import NAMED
from nde.data.request import Request
from nde.data.scaling import Scaling, fit_scaling
from nde.data.series import PARTS, Part, Reading, SeriesDataset
from nde.data.source import BUNDLED, is_named, read_source
from nde.data.split import Split, split_series
from nde.data.ts_file import read_ts

__all__ = [
    "BUNDLED",
    "FORMATS",
    "NAMED",
    "PARTS",
    "Batch",
    "Columns",
    "DataError",
    "DropProtocol",
    "Part",
    "Reading",
    "Request",
    "Scaling",
    "SeriesDataset",
    "Split",
    "collate",
    "drop_observations",
    "fit_scaling",
    "is_named",
    "read_long_csv",
    "read_source",
    "read_ts",
    "split_series",
    "unknown_name",
]
