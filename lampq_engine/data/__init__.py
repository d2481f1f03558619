"""Labelled images for calibration and validation, from scans, a folder or a data set that timm reads."""

from .images import Dataset, Images
from .load import load_dataset

__all__ = ["Dataset", "Images", "load_dataset"]
