"""Images as uint8 tensors: sources, splits, and the facts known before any compute."""

from geovq.data.sources import open_images, open_source, source_names
from geovq.data.split import load_data, split, validation_count
from geovq.data.summary import summary
from geovq.data.types import DataInfo, ImageData, ImageSource, ImageSplit, RawImages

__all__ = [
    "DataInfo",
    "ImageData",
    "ImageSource",
    "ImageSplit",
    "RawImages",
    "load_data",
    "open_images",
    "open_source",
    "source_names",
    "split",
    "summary",
    "validation_count",
]
